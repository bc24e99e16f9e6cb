package writes

import (
	"maps"
	"slices"
)

// tenure is what was accepted under one token.
type tenure struct {
	node         string // "" if nobody is known to own it
	given        bool   // by the registry, as far as it was told
	acked        int
	began, ended int64 // of the first and the last of all acknowledged writes
	first, last  string
}

// Tenures is who accepted writes of which scope under which token, and when.
type Tenures struct {
	scopes map[string]map[Token]*tenure
	found  []Finding
}

// NewTenures knows nothing yet.
func NewTenures() *Tenures { return &Tenures{scopes: map[string]map[Token]*tenure{}} }

func (t *Tenures) at(scope string, token Token) *tenure {
	of, ok := t.scopes[scope]
	if !ok {
		of = map[Token]*tenure{}
		t.scopes[scope] = of
	}
	if of[token] == nil {
		of[token] = &tenure{}
	}
	return of[token]
}

// Owner notes who the registry says owns a scope under a token.
func (t *Tenures) Owner(scope string, token Token, node string) {
	at := t.at(scope, token)
	if at.node != "" && at.node != node {
		t.found = append(t.found, found(RuleOwner, "scope %q: the registry gave token %s to %s, and it was of %s", scope, token, node, at.node))
	}
	at.node, at.given = node, true
}

// Add notes an attempt. Only what was acknowledged counts.
func (t *Tenures) Add(op Op) {
	if op.Outcome != Acknowledged {
		return
	}
	at := t.at(op.Scope, op.Token)
	if at.node == "" {
		at.node = op.Node
	}
	if at.node != op.Node {
		t.found = append(t.found, found(RuleOwner, "scope %q: %s acknowledged %q under token %s, which is of %s", op.Scope, op.Node, op.Key, op.Token, at.node))
	}
	if op.Began > op.Ended || op.Began < op.Call || op.Ended > op.Return {
		t.found = append(t.found, found(RuleSpan, "scope %q: %s says that %q was under way from %d to %d, and the client asked at %d and had the answer at %d",
			op.Scope, op.Node, op.Key, op.Began, op.Ended, op.Call, op.Return))
	}
	if at.acked == 0 || op.Began < at.began {
		at.began, at.first = op.Began, op.Key
	}
	if at.acked == 0 || op.Ended > at.ended {
		at.ended, at.last = op.Ended, op.Key
	}
	at.acked++
}

// Check returns what is wrong with all that was noted since the last call, tenures
// that accepted at once or in the wrong order, and such that the registry does not
// know, if it was asked for any: all of them must have been noted.
func (t *Tenures) Check() []Finding {
	out := t.found
	t.found = nil
	for _, scope := range slices.Sorted(maps.Keys(t.scopes)) {
		of := t.scopes[scope]
		told := false
		for _, at := range of { // order-free: whether there is one
			told = told || at.given
		}
		var before *tenure
		var its Token
		for _, token := range slices.SortedFunc(maps.Keys(of), Token.Compare) {
			now := of[token]
			if now.acked == 0 {
				continue
			}
			if told && !now.given {
				out = append(out, found(RuleOwner, "scope %q: %s acknowledged %q under token %s, which the registry has given to nobody", scope, now.node, now.first, token))
			}
			if before != nil && before.ended >= now.began {
				out = append(out, found(RuleOverlap, "scope %q: %s accepted %q under token %s until %d, and %s accepted %q under %s from %d on, %.3f ms before",
					scope, before.node, before.last, its, before.ended, now.node, now.first, token, now.began, float64(before.ended-now.began)/1e6))
			}
			if before == nil || now.ended > before.ended {
				before, its = now, token
			}
		}
	}
	return out
}
