-- The waiters of a run: first come, first served. `wait` is a sorted set of nonces by place; `waitx` maps a nonce to
-- 'until_us call': how long its place lives, which a live call refreshes, and which call that was.

-- Whether a nonce has a place that has not died.
local function is_waiting(waitx_key, nonce, now)
  local until_us = string.match(redis.call('HGET', waitx_key, nonce) or '', '^%d+')
  return tonumber(until_us or 0) > now
end

-- Gives a place up.
local function leave_queue(wait_key, waitx_key, nonce)
  redis.call('HDEL', waitx_key, nonce)
  redis.call('ZREM', wait_key, nonce)
end

-- Returns the nonce at the head, or nil; places that have died before it are dropped.
local function head_of(wait_key, waitx_key, now)
  while true do
    local nonce = redis.call('ZRANGE', wait_key, 0, 0)[1]
    if not nonce or is_waiting(waitx_key, nonce, now) then return nonce end
    leave_queue(wait_key, waitx_key, nonce)
  end
end

-- Tells whether there is no room for a nonce without a place. A full queue drops some places that have died in it.
local function is_full(wait_key, waitx_key, nonce, now, at_most)
  if redis.call('ZCARD', wait_key) < at_most or redis.call('ZSCORE', wait_key, nonce) then return false end
  for _, other in ipairs(redis.call('ZRANGE', wait_key, 0, 99)) do
    if not is_waiting(waitx_key, other, now) then leave_queue(wait_key, waitx_key, other) end
  end
  return redis.call('ZCARD', wait_key) >= at_most
end

-- Takes or refreshes a place; returns its number, 1 for the head. A place that has died is lost.
local function queue_up(wait_key, waitx_key, nonce, now, until_us, call)
  if not is_waiting(waitx_key, nonce, now) then
    redis.call('ZREM', wait_key, nonce)
    local last = redis.call('ZREVRANGE', wait_key, 0, 0, 'WITHSCORES')[2]
    redis.call('ZADD', wait_key, text(tonumber(last or 0) + 1), nonce)
  end
  redis.call('HSET', waitx_key, nonce, text(until_us) .. ' ' .. call)
  for _, key in ipairs({wait_key, waitx_key}) do -- a queue that nobody comes back to goes by itself
    redis.call('PEXPIREAT', key, text(until_us / 1000 + 60000))
  end
  return redis.call('ZRANK', wait_key, nonce) + 1
end

-- Tells the coordinators that a waiter (or all: '*') had better look again.
local function wake(member, nonce)
  redis.call('PUBLISH', 'rl:wake', member .. ' ' .. nonce)
end

-- Wakes the waiter whose turn it is.
local function wake_head(wait_key, waitx_key, member, now)
  local head = head_of(wait_key, waitx_key, now)
  if head then wake(member, head) end
end
