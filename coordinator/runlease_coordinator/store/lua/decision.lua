-- The resume decision (the table of README's Resume), pure: no call, no clock of its own.
-- run: nil where absent, else {deleted=, ['end']=, expiry=, avail=} with times in microseconds; mode: never, allow,
-- must or auto; now: store time; waiting: whether others wait for the run. Returns one word:
--   DELETED EXISTS HELD LOCK_DELAY QUEUED NOT_FOUND CREATE RESUME
local function decide(run, mode, now, waiting)
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
  if waiting then
    return 'QUEUED'
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

-- Whether a proof of death is good: it names the fence and the process that the record names, and comes from the
-- same boot and PID namespace. holder, prover: {host, pid, user, job, group, version, boot, namespace, started}.
local function proves_death(proof, fence, holder, prover)
  return proof.fence == fence and holder[7] ~= '' and holder[8] ~= ''
    and holder[7] == prover[7] and holder[8] == prover[8]
    and proof.boot_id == holder[7] and proof.pid_namespace == holder[8]
    and proof.pid == holder[2] and proof.process_started == holder[9]
end
