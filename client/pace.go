package client

import (
	"time"

	"github.com/scope-registry/scope-registry/internal/agent"
)

// Pace is a guard for one goroutine that decides about many writes at a time. It reads the clock that leases are counted by
// once for all of them, when the first needs it: a reading costs more than all the rest of a decision.
//
// That is as good as a reading for each, as long as [Pace.Next] is called after everything that takes time: before Admit,
// once the commands have been read, and before Check, once the store's answers have. What passes between the reading and
// the acknowledgement is no other than what may pass there anyway.
type Pace struct {
	guard *Guard
	lane  uint32
	at    time.Duration
	read  bool
	clock agent.Clock // of this pace; made once
}

// Pace returns one for one goroutine at a time.
func (g *Guard) Pace() *Pace {
	p := &Pace{guard: g, lane: g.paces.Add(1)}
	p.clock = func() time.Duration {
		if !p.read {
			p.at, p.read = g.clock(), true
		}
		return p.at
	}
	return p
}

// Next has the clock read anew.
func (p *Pace) Next() { p.read = false }

// Admit is [Guard.Admit].
func (p *Pace) Admit(key []byte) (Admitted, error) {
	t, err := p.guard.adm.Enter(key, p.clock, p.lane)
	return Admitted{p.guard, t}, err
}

// AdmitKeys is [Guard.AdmitKeys].
func (p *Pace) AdmitKeys(keys [][]byte) (Admitted, error) {
	t, err := p.guard.adm.EnterKeys(keys, p.clock, p.lane)
	return Admitted{p.guard, t}, err
}

// Check is [Admitted.Check].
func (p *Pace) Check(a *Admitted, keys ...[]byte) error {
	if a.ticket.Scoped() {
		return p.guard.adm.CheckScope(&a.ticket, p.clock)
	}
	return p.guard.adm.CheckKeys(&a.ticket, keys, p.clock)
}
