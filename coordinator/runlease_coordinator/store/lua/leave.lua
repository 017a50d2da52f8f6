#!lua flags=allow-oom
-- Gives a waiter's place up.
-- KEYS  1 meta  2 wait  3 waitx
-- ARGV  1 project  2 canonical ID  3 nonce
-- Returns {'LEFT', now} or {'UNBOOTSTRAPPED'}.
local now, _, refusal = gate(KEYS[1])
if refusal then return refusal end
if leave_queue(KEYS[2], KEYS[3], ARGV[3]) then
  wake_head(KEYS[2], KEYS[3], ARGV[1] .. '/' .. ARGV[2], now)
end
return {'LEFT', text(now)}
