package main

import (
	"context"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/crash/gates"
	"github.com/scope-registry/scope-registry/internal/crash/rig"
)

// moved counts moves with a victim, of which one hits.
type moved struct{ kills, hits int }

func (m *moved) Move(_ context.Context, p string, step rig.Step, victim gates.Victim) (gates.Result, error) {
	if victim == gates.Nobody {
		return gates.Result{}, nil
	}
	m.kills++
	return gates.Result{Scope: p, Step: step, Victim: victim, Hit: m.kills == m.hits}, nil
}

// TestAKillMeetsAMove: kills go on until one has, within bounds.
func TestAKillMeetsAMove(t *testing.T) {
	for _, c := range []struct {
		hits, kills int
		ok          bool
	}{{1, 10, true}, {10, 10, true}, {13, 13, true}, {10 + moreKills, 10 + moreKills, true}, {11 + moreKills, 10 + moreKills, false}} {
		m := &moved{hits: c.hits}
		err := (&tale{}).strike(t.Context(), m)
		if (err == nil) != c.ok || m.kills != c.kills {
			t.Errorf("when kill %d hits: %v after %d kills", c.hits, err, m.kills)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "none of 20 kills met a move") {
			t.Error(err)
		}
	}
}
