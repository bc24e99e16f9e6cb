package writes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// candidate is a value that a key may have; epoch 0 is any.
type candidate struct {
	value string
	epoch uint64
}

// entry is what is known of one key.
type entry struct {
	may    []candidate // values it may have
	absent bool        // it may be absent
	ever   []candidate // all that it may have had at any time, and at any node
	epoch  uint64      // of the last acknowledgement, or of the owner when all stood still
}

// Ledger is what must, may and must not be there of one scope.
type Ledger struct {
	scope   string
	entries map[string]*entry
	taken   uint64 // epoch of the last takeover since all stood still; 0 is none
}

// NewLedger is of a scope in which nothing was written.
func NewLedger(scope string) *Ledger { return &Ledger{scope: scope, entries: map[string]*entry{}} }

// Len is how many keys were ever tried.
func (l *Ledger) Len() int { return len(l.entries) }

// Add notes an attempt.
func (l *Ledger) Add(op Op) {
	e, ok := l.entries[op.Key]
	if !ok {
		e = &entry{absent: true}
		l.entries[op.Key] = e
	}
	switch op.Outcome {
	case Refused: // it surely was not written
	case Unknown:
		if op.Deletes {
			e.absent = true
			return
		}
		c := candidate{op.Value, 0}
		e.may, e.ever = append(e.may, c), append(e.ever, c)
	case Acknowledged:
		e.may, e.absent, e.epoch = nil, op.Deletes, op.Token.Epoch
		if !op.Deletes {
			c := candidate{op.Value, op.Token.Epoch}
			e.may, e.ever = append(e.may, c), append(e.ever, c)
		}
	}
}

// TakenOver notes that a fallback became the owner, with this epoch, and not by a
// move: what was acknowledged under lower epochs may not be there, or as the
// fallback last had it. This is what a takeover is allowed to lose.
func (l *Ledger) TakenOver(epoch uint64) { l.taken = max(l.taken, epoch) }

// Settle compares the ledger with what the owner has while nothing is under way
// and no process lives that was asked earlier and did not answer. From then on
// what is there must stay, and what is not must not come back. epoch is that of the
// owner.
func (l *Ledger) Settle(dump []Record, epoch uint64) []Finding {
	var out []Finding
	there := map[string]Record{}
	for _, r := range dump {
		if other, twice := there[r.Key]; twice {
			out = append(out, found(RuleTwice, "scope %q: %q is there as %.40q and as %.40q", l.scope, r.Key, other.Value, r.Value))
		}
		there[r.Key] = r
		if l.entries[r.Key] == nil {
			l.entries[r.Key] = &entry{absent: true} // nobody wrote it
		}
	}
	for _, key := range slices.Sorted(maps.Keys(l.entries)) {
		r, is := there[key]
		e := l.entries[key]
		if f, bad := l.judge(key, e, r, is); bad {
			out = append(out, f)
		}
		e.may, e.absent, e.epoch = nil, !is, epoch
		if is {
			e.may = []candidate{{r.Value, r.Epoch}}
		}
	}
	l.taken = 0
	return out
}

func (l *Ledger) judge(key string, e *entry, r Record, is bool) (Finding, bool) {
	may, absent := e.may, e.absent
	if l.taken > e.epoch {
		may, absent = append(slices.Clone(may), e.ever...), true
	}
	if !is {
		return found(RuleLost, "scope %q: %q is not there, and must be as %s", l.scope, key, shown(may)), !absent
	}
	value := false
	for _, c := range may {
		value = value || c.value == r.Value
		if c.value == r.Value && (c.epoch == 0 || c.epoch == r.Epoch) {
			return Finding{}, false
		}
	}
	switch {
	case value:
		return found(RuleEpoch, "scope %q: %q is there under epoch %d, and may be as %s", l.scope, key, r.Epoch, shown(may)), true
	case !absent:
		return found(RuleLost, "scope %q: %q is there as %.40q (epoch %d), and must be as %s", l.scope, key, r.Value, r.Epoch, shown(may)), true
	case slices.ContainsFunc(e.ever, func(c candidate) bool { return c.value == r.Value }):
		return found(RuleBack, "scope %q: %q is there as %.40q (epoch %d), and was deleted, or was not there when all stood still", l.scope, key, r.Value, r.Epoch), true
	default:
		return found(RuleGhost, "scope %q: %q is there as %.40q (epoch %d), which was refused or never written", l.scope, key, r.Value, r.Epoch), true
	}
}

// shown is the values a key may have, for people.
func shown(may []candidate) string {
	var all []string
	for _, c := range may {
		text := fmt.Sprintf("%.40q", c.value)
		if c.epoch > 0 {
			text += fmt.Sprintf(" (epoch %d)", c.epoch)
		}
		all = append(all, text)
	}
	return strings.Join(all, " or ")
}
