-- Returns how many bytes a run's config and summary would take, names included, with some fields changed.
-- changed: [KEY, JSON text, ...]; prefix: what their names have in front in the record ('config.' or '').
local function record_bytes(run_key, changed, prefix)
  local texts, bytes = {}, 0
  local record = redis.call('HGETALL', run_key)
  for i = 1, #record, 2 do
    if string.find(record[i], '^config%.') or string.find(record[i], '^summary%.') then texts[record[i]] = record[i + 1] end
  end
  for i = 1, #changed, 2 do texts[prefix .. changed[i]] = changed[i + 1] end
  for field, value in pairs(texts) do bytes = bytes + #field + #value end
  return bytes
end
