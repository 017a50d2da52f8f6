-- The ID of the last entry that a run's log ever held, '' if none: compaction may have trimmed the entry itself.
local function end_of_log(log_key)
  if redis.call('EXISTS', log_key) == 0 then return '' end
  local stream = redis.call('XINFO', 'STREAM', log_key)
  for i = 1, #stream, 2 do
    if stream[i] == 'last-generated-id' then return stream[i + 1] end
  end
end
