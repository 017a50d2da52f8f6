#!lua flags=no-writes,allow-oom,allow-stale
-- Tells which commands the caller may not use; uses none of them.
-- KEYS  none
-- ARGV  1 JSON: a list of commands, each a list of its words
-- Returns the names of those that the server refuses to this user.
local refused = {}
for _, words in ipairs(cjson.decode(ARGV[1])) do
  if not redis.acl_check_cmd(unpack(words)) then refused[#refused + 1] = words[1] end
end
return refused
