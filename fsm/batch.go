package fsm

import (
	"slices"
	"strings"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// maxProblems bounds how many bad items of a batch one refusal lists.
const maxProblems = 10

// batch changes nodes and scopes all at once, or nothing. Nodes come first, so
// that scopes may name them; then prune retires, so that a prefix may be split
// or joined; then scopes; and unused nodes go last.
func (tx *txn) batch(c *Batch) (*Result, *api.Error) {
	if n := len(c.GetNodes()) + len(c.GetScopes()); n > MaxBatch {
		return nil, refuse(api.Limit, "the batch has %d nodes and scopes, the limit is %d; apply it in parts (--chunks), which is not atomic", n, MaxBatch)
	}
	if c.GetCheckIndex() && tx.configIndex > c.GetIfIndex() {
		err := refuse(api.IndexChanged, "nodes or scopes changed at index %d, after the index %d of the plan; plan again", tx.configIndex, c.GetIfIndex())
		err.Index, err.Floor = tx.configIndex, tx.configIndex
		return nil, err
	}
	if c.GetPrune() && len(c.GetNodes())+len(c.GetScopes()) == 0 {
		return nil, refuse(api.Invalid, "an empty batch with prune would retire every scope; if that is meant, retire them by name")
	}
	if err := checkTwice(c); err != nil {
		return nil, err
	}
	var problems []*api.Error
	note := func(err *api.Error) {
		if err != nil && len(problems) < maxProblems {
			problems = append(problems, err)
		}
	}
	for _, n := range c.GetNodes() {
		note(tx.setNode(n))
	}
	if c.GetPrune() {
		tx.pruneScopes(c, note)
	}
	for _, d := range c.GetScopes() {
		_, err := tx.declare(d)
		note(err)
	}
	if c.GetPrune() && len(c.GetNodes()) > 0 {
		tx.pruneNodes(c, note)
	}
	if len(problems) > 0 {
		return nil, joined(problems)
	}
	return &Result{Changed: uint64(len(tx.changes())), Warnings: tx.kept}, nil
}

func joined(problems []*api.Error) *api.Error {
	first := *problems[0]
	lines := make([]string, 0, len(problems))
	for _, p := range problems {
		lines = append(lines, p.Detail)
	}
	first.Detail = strings.Join(lines, "\n")
	return &first
}

// checkTwice refuses a batch that names something twice: which one was meant
// would depend on the order of its lines.
func checkTwice(c *Batch) *api.Error {
	nodes := make(map[string]bool, len(c.GetNodes()))
	for _, n := range c.GetNodes() {
		if nodes[n.GetId()] {
			return refuse(api.Invalid, "the batch names node %q twice; keep one", n.GetId())
		}
		nodes[n.GetId()] = true
	}
	prefixes := make(map[string]bool, len(c.GetScopes()))
	for _, d := range c.GetScopes() {
		if prefixes[string(d.GetPrefix())] {
			return refuse(api.Invalid, "the batch names scope %q twice; keep one", scope.Prefix(d.GetPrefix()))
		}
		prefixes[string(d.GetPrefix())] = true
	}
	return nil
}

// pruneScopes retires every scope that the batch does not name. It is O(n).
func (tx *txn) pruneScopes(c *Batch, note func(*api.Error)) {
	named := make(map[scope.Prefix]bool, len(c.GetScopes()))
	for _, d := range c.GetScopes() {
		named[scope.Prefix(d.GetPrefix())] = true
	}
	for s := range tx.scopes.Scopes() { // the table as it was: it is a value
		if !named[s.Prefix] {
			note(tx.retire(&Retire{Prefix: s.Prefix.Bytes()}))
		}
	}
}

// pruneNodes removes every node that the batch does not name. A node that is
// still in use by what its retired scopes leave is kept, and said so.
func (tx *txn) pruneNodes(c *Batch, note func(*api.Error)) {
	named := make(map[scope.NodeID]bool, len(c.GetNodes()))
	for _, n := range c.GetNodes() {
		named[scope.NodeID(n.GetId())] = true
	}
	for n := range tx.Nodes() {
		if named[n.ID] {
			continue
		}
		switch r, _ := tx.node(n.ID); {
		case r.uses.scopes+r.uses.moves > 0: // removeNode says so
		case r.uses.tombstones+r.uses.cleanups > 0:
			tx.kept = append(tx.kept, "node "+string(n.ID)+" is kept: it may not know yet that its scopes are retired")
			continue
		case r.Live():
			tx.kept = append(tx.kept, "node "+string(n.ID)+" is kept: it has a live session")
			continue
		case tx.cluster.Hold && !tx.Met(n):
			tx.kept = append(tx.kept, "node "+string(n.ID)+" is kept: the cluster holds, and it has not met this incarnation")
			continue
		}
		note(tx.removeNode(&RemoveNode{Id: string(n.ID)}))
	}
}

// PlanChange is one difference that a batch would make: Op is "+", "~" or "-",
// Kind "node" or "scope".
type PlanChange struct {
	Op, Kind, Name, Before, After string
}

// Plan is what a batch would do.
type Plan struct {
	Changes []PlanChange
	Kept    []string // what prune leaves, and why
}

// Plan says what the batch would change if it were applied to this state. The
// error is the *[api.Error] that applying it would give.
func (s State) Plan(b *Batch) (Plan, error) {
	tx := &txn{State: s, at: At{Index: s.index + 1}}
	if _, err := tx.batch(b); err != nil {
		return Plan{}, err
	}
	changes := tx.changes()
	out := make([]PlanChange, 0, len(changes))
	for _, e := range changes {
		if e.Node != nil {
			out = append(out, s.planNode(e))
		} else {
			out = append(out, s.planScope(e))
		}
	}
	return Plan{out, tx.kept}, nil
}

// changes are the events of nodes and scopes.
func (tx *txn) changes() []Event {
	return slices.DeleteFunc(slices.Clone(tx.events), func(e Event) bool { return e.Node == nil && e.Scope == nil })
}

func (s State) planNode(e Event) PlanChange {
	c := PlanChange{Op: "+", Kind: "node", Name: string(e.Node.ID), After: e.Node.Addr}
	if old, ok := s.Node(e.Node.ID); ok {
		c.Op, c.Before = "~", old.Addr
	}
	if e.Deleted {
		c.Op, c.After = "-", ""
	}
	return c
}

func (s State) planScope(e Event) PlanChange {
	c := PlanChange{Op: "+", Kind: "scope", Name: e.Scope.Prefix.Text(), After: describe(e.Scope)}
	if old, ok := s.scopes.Get(e.Scope.Prefix); ok {
		c.Op, c.Before = "~", describe(old)
	}
	if e.Deleted {
		c.Op, c.After = "-", ""
	}
	return c
}

func describe(s *scope.Scope) string {
	text := "writer=" + string(s.Writer)
	if s.Fallback != "" {
		text += " fallback=" + string(s.Fallback)
	}
	return text + " failover=" + s.Failover.String() + " lease=" + s.Lease.String()
}
