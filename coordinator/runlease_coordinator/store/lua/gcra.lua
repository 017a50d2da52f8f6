-- Rate limits (GCRA). A limit's state is its TAT, the moment (us) at which all that was taken in would be paid for at
-- the rate. A batch is taken in while the TAT is at most a burst ahead, and moves it by its cost, which may lead beyond:
-- so in t seconds at most burst + rate * t + one batch comes in, and a batch larger than the burst is not stuck.

local LIMIT_NAMES = {'run_points', 'run_bytes', 'project_points', 'project_bytes', 'burst_us'}

-- The limits in force for a run ('': of a project), in the order of LIMIT_NAMES: its own, else its project's, else the
-- defaults. 0: unlimited.
local function limits_of(limits_key, id, defaults)
  local set = redis.call('HMGET', limits_key, 'run_points', 'run_bytes', 'project_points', 'project_bytes', 'burst_us',
    'run_points:' .. id, 'run_bytes:' .. id, 'burst_us:' .. id)
  local function number(i, own)
    return tonumber(own and set[own] or set[i] or defaults[i])
  end
  return {number(1, 6), number(2, 7), number(3), number(4), number(5, 8)}, tonumber(set[5] or defaults[5])
end

-- One limit: name, rate per second, burst and largest batch's cost in us, TAT as stored (or false), what the batch costs.
local function limit(name, now, rate, burst_us, largest, stored, cost)
  -- Beyond a burst and the largest batch there is no honest debt: the store's clock went back, or the rate was raised.
  local highest = now + burst_us + math.ceil(largest * 1e6 / rate)
  local tat = math.max(now, tonumber(stored or 0))
  if tat > highest then tat = now end
  return {
    name = name, rate = rate, tat = tat, wait_us = tat - burst_us - now,
    left = math.floor(math.max(0, now + burst_us - tat) * rate / 1e6),
    after = math.min(tat + math.ceil(cost * 1e6 / rate), highest), -- barriers go beyond, but pile up no debt
  }
end
