-- The resume decision (DESIGN section 4's table, rows top down), pure: no call, no clock of its own.
-- run: nil where absent, else {deleted=, ['end']=, expiry=, avail=} with times in microseconds; mode: never, allow,
-- must or auto; now: store time. Returns one word:
--   DELETED EXISTS HELD LOCK_DELAY NOT_FOUND CREATE RESUME
local function decide(run, mode, now)
  if run == nil then
    return mode == 'must' and 'NOT_FOUND' or 'CREATE'
  end
  if run.deleted then
    return 'DELETED'
  end
  if mode == 'never' then
    return 'EXISTS'
  end
  if run['end'] == '' and now < run.expiry then
    return 'HELD'
  end
  if now < run.avail then
    return 'LOCK_DELAY'
  end
  return 'RESUME'
end

-- Where a grant starts: the caller's own word, else behind the highest visible checkpoint, else where the log ends.
-- resume_step, checkpoint_step: nil where there is none.
local function starting_step(resume_step, checkpoint_step, next_step)
  if resume_step then
    return resume_step
  end
  if checkpoint_step then
    return checkpoint_step + 1
  end
  return next_step
end
