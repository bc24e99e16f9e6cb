package main

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// Rules that a run can break, beside those of package writes.
const (
	ruleClean     = "start that is not clean"
	ruleReady     = "not ready"
	ruleStands    = "nothing acknowledged"
	ruleStale     = "stale read"
	ruleBackwards = "index goes backwards"
	ruleStates    = "states differ"
	ruleRefused   = "refused without reason"
)

// maxFindings bounds what is kept: the first ones say what is wrong.
const maxFindings = 20

// counts are how all mutations and reads ended.
type counts struct {
	acknowledged, unknown     int
	tries, triedAgain, doubts int // requests; those that said to try again; and those of them whose fate was open
	reads, readsFailed        int
}

// record is what is known of one scope. Only its one client changes it.
type record struct {
	epoch   uint64 // that its declare was acknowledged with, 0 if it was not
	retires bool   // it was asked to go
	retired bool   // that was acknowledged
}

// register is what is known of the number in the address of a node, which only grows.
type register struct{ acked, tried uint64 }

// ledger is what clients asked for and were told. It is safe for use by many
// goroutines.
type ledger struct {
	mu     sync.Mutex // guards the rest
	scopes map[string]*record
	nodes  map[string]*register
	counts counts
	wrong  []writes.Finding
}

func newLedger() *ledger {
	return &ledger{scopes: map[string]*record{}, nodes: map[string]*register{}}
}

func (l *ledger) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// find notes a broken rule.
func (l *ledger) find(rule, format string, args ...any) {
	l.note(func() { l.found(rule, format, args...) })
}

func (l *ledger) found(rule, format string, args ...any) {
	if len(l.wrong) < maxFindings {
		l.wrong = append(l.wrong, writes.Finding{Rule: rule, What: fmt.Sprintf(format, args...)})
	}
}

// findings are the broken rules so far.
func (l *ledger) findings() []writes.Finding {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]writes.Finding(nil), l.wrong...)
}

func (l *ledger) total() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// numbered is an address with a number in it.
func numbered(seq uint64) string { return fmt.Sprintf("change-%d:1", seq) }

// numberOf is the number in an address that numbered made.
func numberOf(addr string) (uint64, error) {
	return strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(addr, "change-"), ":1"), 10, 64)
}

// judge compares what a server has with what was acknowledged and tried. Nothing may
// be under way.
func (l *ledger) judge(server string, scopes map[string]api.Scope, nodes []api.NodeState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for prefix, r := range l.scopes {
		have, there := scopes[prefix]
		switch {
		case r.retired && there:
			l.found(writes.RuleBack, "%s has %s with epoch %d, which was retired", server, prefix, have.Epoch)
		case r.epoch != 0 && !r.retires && !there:
			l.found(writes.RuleLost, "%s lacks %s, which was acknowledged with epoch %d", server, prefix, r.epoch)
		case r.epoch != 0 && there && have.Epoch != r.epoch:
			l.found(writes.RuleEpoch, "%s has %s with epoch %d, and %d was acknowledged", server, prefix, have.Epoch, r.epoch)
		}
	}
	for prefix := range scopes {
		if l.scopes[prefix] == nil {
			l.found(writes.RuleGhost, "%s has %s, which nobody declared", server, prefix)
		}
	}
	shown := map[string]string{}
	for _, n := range nodes {
		shown[n.ID] = n.Addr
	}
	for id, r := range l.nodes {
		seq, err := numberOf(shown[id])
		switch {
		case err != nil:
			l.found(writes.RuleLost, "%s has node %s at %q, and %s was acknowledged", server, id, shown[id], numbered(r.acked))
		case seq < r.acked:
			l.found(writes.RuleLost, "%s has node %s at %s, and %s was acknowledged", server, id, shown[id], numbered(r.acked))
		case seq > r.tried:
			l.found(writes.RuleGhost, "%s has node %s at %s, and the last that was tried is %s", server, id, shown[id], numbered(r.tried))
		}
	}
}
