#!lua flags=allow-oom
-- Lets a run show another's history, up to a step, before its own. Idempotent for the same parent and step.
-- A repetition writes what is there already: no change, but a write that a WAIT behind it covers, too.
-- KEYS  1 meta  2 run  3 attempts  4 ckpt  5 ckptdoc  6 runs  7 events  8 parent's run  9 parent's attempts
--       10 parent's ckpt  11 parent's ckptdoc  12 parent's log  13 projects' link counters
-- ARGV  1 project  2 canonical ID  3 parent's canonical ID  4 step ('': all of it)
--       5 the project's link counter as the caller read it before it looked for a cycle
-- Returns {verdict, now, ...}:
--   LINKED   RACED (somebody linked meanwhile: look again)   LINKED_ALREADY  parent, step
--   ABSENT DELETED PARENT_ABSENT PARENT_DELETED   PARENT_STEP  parent's next step   UNBOOTSTRAPPED
local project, id, parent_id, step, counter = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local run_key, attempts_key, parent_key = KEYS[2], KEYS[3], KEYS[8]
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
if (redis.call('HGET', KEYS[13], project) or '0') ~= counter then return {'RACED', text(now)} end
local run = redis.call('HMGET', run_key, 'fence', 'deleted', 'attempt', 'parent', 'parent_step', 'next')
if not run[1] then return {'ABSENT', text(now)} end
if run[2] then return {'DELETED', text(now)} end
local parent = redis.call('HMGET', parent_key, 'next', 'deleted')
if not parent[1] then return {'PARENT_ABSENT', text(now)} end
if parent[2] then return {'PARENT_DELETED', text(now)} end
step = step or tonumber(parent[1]) - 1
if step < 0 or step >= tonumber(parent[1]) then return {'PARENT_STEP', text(now), parent[1]} end
if run[4] then
  if run[4] == parent_id and run[5] == text(step) then
    redis.call('HSET', run_key, 'parent', parent_id)
    return {'LINKED', text(now)}
  end
  return {'LINKED_ALREADY', text(now), run[4], run[5]}
end
-- Only what the run rewinds from now on may hide the parent's points: its own starts were not meant to.
local own = counting_segments(attempts_key)
for attempt = 1, tonumber(run[3]) do -- nor those of attempts whose first write is still to come, by a sync perhaps
  local open = redis.call('HMGET', attempts_key, attempt .. '.start', attempt .. '.counts')
  if open[1] and open[2] ~= '1' then own = own .. '\n' .. attempt .. ' 0 ' .. open[1] .. ' ' end
end
adopt(run_key, KEYS[4], KEYS[5], parent_id, step, own, parent_key, KEYS[9], KEYS[10], KEYS[11], KEYS[12])
-- A run that logged nothing yet goes on behind the history that it shows now.
redis.call('HSET', run_key, 'next', text(math.max(tonumber(run[6]), step + 1)))
redis.call('HINCRBY', KEYS[13], project, 1)
redis.call('HSET', run_key, 'updated', text(now))
redis.call('ZADD', KEYS[6], text(now), id)
event(KEYS[7], now, project, id, 'linked', run[1], run[3],
  {continues = parent_id, step = text(step)})
return {'LINKED', text(now)}
