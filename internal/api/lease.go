package api

import (
	"fmt"
	"time"
)

// Leases are the times of the lease protocol, in one place since they are safe
// only together. A node counts its lease from when it sent the renewal, the
// leader its deadline from when a confirm that began after the renewal's arrival
// was done; so the lease ends first if
//
//	Lease / (1 - skew) < Deadline / (1 + skew)
//
// where skew is by how much a clock may run wrong.
type Leases struct {
	Renew    time.Duration // how often a node renews
	Lease    time.Duration // of a node, from the sending of a renewal, on the node's clock
	Deadline time.Duration // of the leader, from the confirm of a renewal, on the leader's clock
	Late     time.Duration // a leader whose tick comes later than this was paused, and restarts every deadline
}

// ClockSkew is by how much a clock may run faster or slower than real time, in
// percent, without two nodes ever writing one scope.
const ClockSkew = 10

// DefaultLeases are the times of every cluster: a node that is gone is noticed
// 10 s after its last renewal, and one renewal of four may get through.
func DefaultLeases() Leases {
	return Leases{Renew: 2 * time.Second, Lease: 8 * time.Second, Deadline: 10 * time.Second, Late: time.Second}
}

// Check refuses times under which a node could write after the leader gave its
// scopes away, or that leave no room for a lost renewal.
func (l Leases) Check() error {
	switch {
	case l.Renew <= 0 || l.Late <= 0:
		return fmt.Errorf("a lease is renewed every %s and a tick is late after %s; both must be positive", l.Renew, l.Late)
	case l.Lease < 2*l.Renew:
		return fmt.Errorf("a lease of %s is shorter than two renewals, which come every %s", l.Lease, l.Renew)
	case l.Lease*(100+ClockSkew) >= l.Deadline*(100-ClockSkew):
		return fmt.Errorf("a lease of %s on a clock %d %% slow outlasts the leader's %s on one %d %% fast: two nodes could write one scope", l.Lease, ClockSkew, l.Deadline, ClockSkew)
	}
	return nil
}
