#!lua flags=allow-oom
-- Reads the rate limits in force for a project or one of its runs; first sets some of them, if any are given.
-- KEYS  1 meta  2 limits  3 run (any, if there is none)  4 events
-- ARGV  1 project  2 canonical ID, or '' for the project  3-7 defaults: run_points run_bytes project_points
--       project_bytes (per second) burst_us  8 acquires (per second)  9... name as there, value, ...
-- Returns {verdict, now, ...}:  LIMITS  run_points run_bytes project_points project_bytes burst_us acquires
--   ABSENT DELETED UNBOOTSTRAPPED
local project, id, defaults = ARGV[1], ARGV[2], {unpack(ARGV, 3, 7)}
local limits_key, run_key = KEYS[2], KEYS[3]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
local fence, attempt = '0', '0'
if id ~= '' then
  local run = redis.call('HMGET', run_key, 'fence', 'deleted', 'attempt')
  if not run[1] then return {'ABSENT', text(now)} end
  if run[2] then return {'DELETED', text(now)} end
  fence, attempt = run[1], run[3]
end
local details = {}
for i = 9, #ARGV, 2 do
  redis.call('HSET', limits_key, id == '' and ARGV[i] or ARGV[i] .. ':' .. id, ARGV[i + 1])
  details[ARGV[i]] = ARGV[i + 1]
end
if #ARGV >= 9 then event(KEYS[4], now, project, id, 'limits', fence, attempt, details) end
local answer = {'LIMITS', text(now)}
for _, value in ipairs((limits_of(limits_key, id, defaults))) do answer[#answer + 1] = text(value) end
answer[#answer + 1] = redis.call('HGET', limits_key, 'acquires') or ARGV[8]
return answer
