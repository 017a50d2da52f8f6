-- Automatic keys: what a job is known by -> the run that it goes on with.

-- Returns the first of the keys that is bound, and its run; nil where none is. A binding is 'run until_us'.
local function bound_run(auto_key, keys, now)
  for _, key in ipairs(keys) do
    local id, until_us = string.match(redis.call('HGET', auto_key, key) or '', '^(%S+) (%d+)$')
    if id and tonumber(until_us) > now then return key, id end
  end
end

-- Binds all of a job's keys to a run; those of its earlier jobs stay bound for as long as they live.
local function bind_keys(run_key, auto_key, id, keys, until_us, now)
  local bound, all = {}, {}
  for _, key in ipairs(keys) do
    redis.call('HSET', auto_key, key, id .. ' ' .. text(until_us))
    bound[key], all[#all + 1] = true, key
  end
  for _, key in ipairs(cjson.decode(redis.call('HGET', run_key, 'auto') or '[]')) do
    local to, dies_us = string.match(redis.call('HGET', auto_key, key) or '', '^(%S+) (%d+)$')
    if not bound[key] and to == id then
      if tonumber(dies_us) > now then all[#all + 1] = key else redis.call('HDEL', auto_key, key) end
    end
  end
  redis.call('HSET', run_key, 'auto', cjson.encode(all))
end

-- Forgets the keys of a run that has come to its end; those that lead elsewhere by now stay.
local function forget_keys(run_key, auto_key, id)
  local keys = redis.call('HGET', run_key, 'auto')
  if not keys then return end
  for _, key in ipairs(cjson.decode(keys)) do
    if string.match(redis.call('HGET', auto_key, key) or '', '^(%S+) ') == id then
      redis.call('HDEL', auto_key, key)
    end
  end
  redis.call('HDEL', run_key, 'auto')
end
