-- When a segment of the whole run, or of the writer `main`, begins to hide what it replaces.

-- Checkpoints at or above its start are superseded: they leave the set of the visible ones.
-- spares: those of the run's parent stay; upto: so do those of attempts after this one (nil: none is). Their names are
-- '<step>:<fence>', with ':<segment>' behind it in later segments of `main`.
local function supersede_checkpoints(ckpt_key, start, attempts_key, spares, upto)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', ckpt_key, text(start), '+inf')) do
    local stays = false
    if spares or upto then
      local attempt = redis.call('HGET', attempts_key, 'fence.' .. string.match(name, '^%d+:(%d+)'))
      if attempt then
        stays = upto and tonumber(attempt) > tonumber(upto)
      else
        stays = spares
      end
    end
    if not stays then redis.call('ZREM', ckpt_key, name) end
  end
end

-- Whether segment 0 of an attempt that begins to count hides nothing of the parent's: it was open when the run was
-- linked, and its start was not meant to.
local function spares_parent(run_key, attempt, start)
  local own = redis.call('HGET', run_key, 'parent_own')
  return own and string.find('\n' .. own .. '\n', '\n' .. attempt .. ' 0 ' .. text(start) .. ' \n', 1, true)
end

-- The segments of a run that count, as 'attempt segment start writer' lines: what a fork keeps of its parent.
local function counting_segments(attempts_key)
  local flat, lines = redis.call('HGETALL', attempts_key), {}
  local fields = {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  for field, value in pairs(fields) do
    local attempt = string.match(field, '^(%d+)%.counts$')
    if attempt and value == '1' then
      lines[#lines + 1] = attempt .. ' 0 ' .. fields[attempt .. '.start'] .. ' '
    end
    local owner, segment, writer = string.match(field, '^(%d+)%.segment%.(%d+)%.(.+)$')
    if owner then
      lines[#lines + 1] = owner .. ' ' .. segment .. ' ' .. value .. ' ' .. writer
    end
  end
  table.sort(lines)
  return table.concat(lines, '\n')
end

-- Makes a run show a parent's history up to and including `step` before its own, as the parent stands now.
-- own: the run's own segments, as counting_segments tells them, that hide nothing of the parent's.
local function adopt(run_key, ckpt_key, doc_key, parent_id, step, own, p_run, p_attempts, p_ckpt, p_doc, p_log)
  local parent = redis.call('HMGET', p_run, 'attempt', 'parent')
  redis.call('HSET', run_key, 'parent', parent_id, 'parent_step', text(step), 'parent_own', own,
    'parent_segments', counting_segments(p_attempts), 'parent_entry', end_of_log(p_log),
    'parent_attempt', parent[1], 'parent_continues', parent[2] or '')
  redis.call('HINCRBY', p_run, 'children', 1)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', p_ckpt, '-inf', text(step))) do
    redis.call('ZADD', ckpt_key, string.match(name, '^%d+'), name)
    redis.call('HSET', doc_key, name, redis.call('HGET', p_doc, name))
  end
end
