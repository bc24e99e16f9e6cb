package sim

// Shrunk is a violation with the fewest actions that were found to bring it about.
type Shrunk struct {
	Outcome
	From int // actions of the whole plan
	Runs int
}

// maxShrink bounds the runs that shrinking takes.
const maxShrink = 400

// Shrink leaves out of a seed's plan what is not needed for its violation, and
// runs the rest with a trace. The same invariant must fail; that it fails for the
// same reason is for a reader to see.
func Shrink(seed uint64) Shrunk { return shrink(seed, planFor(seed)) }

func shrink(seed uint64, plan []action) Shrunk {
	first := runPlan(seed, plan, false)
	out := Shrunk{Outcome: first, From: len(plan)}
	if first.Violation == nil {
		return out
	}
	fails := func(p []action) bool {
		out.Runs++
		o := runPlan(seed, p, false)
		return o.Violation != nil && o.Violation.Invariant == first.Violation.Invariant
	}
	for size := (len(plan) + 1) / 2; size > 0; {
		left := false
		for at := 0; at < len(plan) && out.Runs < maxShrink; {
			without := append(append([]action{}, plan[:at]...), plan[min(at+size, len(plan)):]...)
			if fails(without) {
				plan, left = without, true
			} else {
				at += size
			}
		}
		if size == 1 && !left || out.Runs >= maxShrink {
			break
		}
		size = max(1, size/2)
	}
	out.Outcome = runPlan(seed, plan, true)
	return out
}
