package fault

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/target"
)

// The scenarios beside those that are called by one fault, which do that one again and again.
const (
	Servers = "servers" // the four that were first: kill, pause, partition, readdress
	Every   = "every"   // every fault that is possible, in an order by the seed
	Mix     = "mix"     // two or three at once, by the seed
)

// together are the faults that Mix does at once: none of them needs the servers to be whole.
var together = []string{history.Kill, history.Pause, history.Partition, history.KillFollower, history.PauseFollower, history.CutFollower,
	history.DeafLeader, history.MuteLeader, history.SlowLeader, history.HalfOpen, history.KillOwner, history.KillTarget, history.PauseOwner, history.CutOwner}

// Scenario is a schedule of faults.
type Scenario struct {
	Name   string
	faults []Fault
	rng    *rand.Rand
	next   int
}

// Plan returns the scenario of a name against a target.
func Plan(name string, t target.Target, seed uint64) (*Scenario, error) {
	s := &Scenario{Name: name, rng: rand.New(rand.NewPCG(seed, 3))}
	var names []string
	switch name {
	case Servers:
		names = []string{history.Kill, history.Pause, history.Partition, history.Readdress}
	case Mix:
		names = together
	case Every:
		for _, f := range All() {
			names = append(names, f.Name)
		}
	default:
		f, err := Named(name)
		if err != nil {
			return nil, fmt.Errorf("scenario %q: %w, and the scenarios %s, %s and %s", name, err, Servers, Every, Mix)
		}
		if !f.Possible(t) {
			return nil, fmt.Errorf("fault %s is not possible against %v", name, t)
		}
		names = []string{name}
	}
	for _, n := range names {
		f, err := Named(n)
		if err != nil {
			return nil, err
		}
		if f.Possible(t) {
			s.faults = append(s.faults, f)
		}
	}
	if name != Servers {
		s.rng.Shuffle(len(s.faults), func(i, j int) { s.faults[i], s.faults[j] = s.faults[j], s.faults[i] })
	}
	return s, nil
}

// Len is how many rounds there are until every fault was done once.
func (s *Scenario) Len() int {
	if s.Name == Mix {
		return 1
	}
	return len(s.faults)
}

// Next are the faults of the next round. It has no end.
func (s *Scenario) Next() []Fault {
	if s.Name != Mix {
		s.next++
		return s.faults[(s.next-1)%len(s.faults) : (s.next-1)%len(s.faults)+1]
	}
	round := slices.Clone(s.faults)
	s.rng.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
	round = round[:2+s.rng.IntN(2)]
	// With both others struck a slow leader has nobody to be slow with, and nothing would show that it was.
	if slices.ContainsFunc(round, func(f Fault) bool { return f.Name == history.SlowLeader }) {
		round = round[:2]
	}
	return round
}

// String is the names of the faults of a scenario.
func (s *Scenario) String() string {
	var names []string
	for _, f := range s.faults {
		names = append(names, f.Name)
	}
	return s.Name + ": " + strings.Join(names, ", ")
}
