package api

import (
	"strings"
	"testing"
	"time"
)

// TestDefaultLeases: they are safe. Who builds the servers with other times runs
// this test on them.
func TestDefaultLeases(t *testing.T) {
	l := DefaultLeases()
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	t.Logf("a lease of %v, renewed every %v; the leader waits for %v, and is late after %v", l.Lease, l.Renew, l.Deadline, l.Late)
}

func TestLeasesThatAreNotSafe(t *testing.T) {
	for want, change := range map[string]func(*Leases){
		"must be positive":         func(l *Leases) { l.Renew = 0 },
		"both must be positive":    func(l *Leases) { l.Late = -time.Second },
		"shorter than two":         func(l *Leases) { l.Renew = l.Lease/2 + 1 },
		"could write one scope":    func(l *Leases) { l.Deadline = l.Lease },
		"8.181818182s on a clock ": func(l *Leases) { l.Lease = 8181818182 },
	} {
		l := DefaultLeases()
		change(&l)
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", l, err, want)
		}
	}
	l := DefaultLeases()
	if l.Lease = 8181818181; l.Check() != nil {
		t.Errorf("the longest lease is refused: %v", l.Check())
	}
}
