#!lua flags=allow-oom
-- Tells store time, and starts a quarantine where that is not to be believed: the store's clock has stepped forward, so
-- leases expire before their holders' deadlines. No data were lost, so the epoch stays, and so do confirmed records.
-- KEYS  1 meta
-- ARGV  1 the latest store time to believe ('': only tell it)
-- Returns {'TOLD', now} | {'QUARANTINE', now, left (us)} | {'UNBOOTSTRAPPED'} | {'NOREPLICAS', ...}.
local now, quarantine, refusal = gate(KEYS[1])
if refusal then return refusal end
if ARGV[1] == '' or now <= tonumber(ARGV[1]) then return {'TOLD', text(now)} end
if quarantine == 0 then
  -- As long as after a loss, also of a store that has none after losses.
  quarantine = quarantine_after(unpack(redis.call('HMGET', KEYS[1], 'max_ttl_us', 'quarantine_us')))
  redis.call('HSET', KEYS[1], 'quarantine_until_us', text(now + quarantine))
end
return {'QUARANTINE', text(now), text(quarantine)}
