-- The order of a sorted set's members of one score: by their bytes. Lua's own `<` follows the server's locale.
local function sorts_below(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end
