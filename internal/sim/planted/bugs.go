package main

import "github.com/scope-registry/scope-registry/internal/overlay"

// bug is a fault planted into the code by an overlay: the production code has no
// switch for it.
type bug struct {
	name  string
	edits []edit
}

// edit is overlay.Edit, short enough for a list of them.
type edit struct{ File, From, To string }

func (b bug) changes() []overlay.Edit {
	out := make([]overlay.Edit, len(b.edits))
	for i, e := range b.edits {
		out[i] = overlay.Edit(e)
	}
	return out
}

// bugs is every rule of the protocol that was once thought to be superfluous, left
// out. Where two rules guard against the same trace, both are left out together.
var bugs = []bug{
	{"skip drain", []edit{{"internal/agent/source.go",
		"\t\tt.do(AwaitDrain{x.Slice})\n", "\t\tx.shipping = true\n\t\tt.do(Ship{x.Slice, m.To})\n"}}},
	{"last check compares the owner instead of the token", []edit{{"internal/agent/rules.go",
		"r.session != t.rules.session || r.token(key) != t.Token() {", "r.session != t.rules.session || !r.owns(key) {"},
		{"internal/agent/rules.go", "// still says whether", "func (r *Rules) owns(key []byte) bool {\n\ts, ok := r.view.scopes.Lookup(key)\n\treturn !ok || s.Owner == r.node\n}\n\n// still says whether"}}},
	{"last check without the session", []edit{{"internal/agent/rules.go",
		`if r.session == "" || r.session != t.rules.session || r.token(key) != t.Token() {`, "if r.token(key) != t.Token() {"}}},
	{"lease measured from the reply", []edit{{"internal/agent/session.go", "e.SentAt+e.Lease", "t.now+e.Lease"}}},
	{"deadlines not restarted by a new leader", []edit{{"internal/sim/server.go",
		"\t\tl.ledger = fsm.NewLedger(s.w.times, term)\n", "\t\tl.ledger = s.kept\n\t\tif term == 1 {\n\t\t\tl.ledger = fsm.NewLedger(s.w.times, term)\n\t\t}\n\t\tl.ledger = l.ledger.InTerm(s.w.times, term)\n"},
		{"internal/sim/server.go", "\tif s.leads() {\n\t\ts.w.note(\"%s does not lead", "\tif s.leads() {\n\t\ts.kept = s.lead.ledger\n\t\ts.w.note(\"%s does not lead"},
		{"internal/sim/server.go", "\tbelief    ", "\tkept fsm.Ledger\n\tbelief    "},
		{"fsm/ledger.go", "// Late reports", "func (l Ledger) InTerm(times api.Leases, term uint64) Ledger { l.times, l.term, l.proposed = times, term, NewLedger(times, term).proposed; return l }\n\n// Late reports"}}},
	{"deadlines not restarted by a leader that was stopped", []edit{{"fsm/ledger.go", "\tnext := NewLedger(l.times, l.term)\n", "\tnext := l\n"}}},
	{"renewal without confirm", []edit{{"internal/sim/server.go", "\ts.confirm(l, func() {\n\t\tif !l.on {\n\t\t\treply", "\ts.after(0, func() {\n\t\tif !l.on {\n\t\t\treply"}}},
	{"renewal although the expiry is proposed", []edit{{"fsm/ledger.go", "if _, dying := l.proposed.Get(id); dying {", "if _, dying := l.proposed.Get(id); dying && false {"}}},
	{"expiry without its term", []edit{{"fsm/sessions.go", "if c.GetTerm() != tx.at.Term {", "if false {"}}},
	{"source resumes on its own timer", []edit{{"internal/agent/agent.go", "closed: t.view.Closed(s) || waits})", "closed: t.view.Closed(s) && !t.impatient(p) || waits})"},
		{"internal/agent/source.go", "\t\tx.draining = true\n", "\t\tx.draining, x.since = true, t.now\n"},
		{"internal/agent/source.go", "\tdraining bool\n", "\tdraining bool\n\tsince time.Duration\n"},
		{"internal/agent/agent.go", "// publish makes new rules when", "func (t *step) impatient(p scope.Prefix) bool {\n\tfor _, x := range t.sources {\n\t\tif x.Prefix == p && x.draining && t.now > x.since+3*time.Second {\n\t\t\treturn true\n\t\t}\n\t}\n\treturn false\n}\n\n// publish makes new rules when"},
		{"internal/agent/agent.go", "\tt.checkSession()\n", "\tt.checkSession()\n\tfor _, x := range t.sources {\n\t\tif t.impatient(x.Prefix) {\n\t\t\tt.touched = append(t.touched, x.Prefix)\n\t\t}\n\t}\n"}}},
	{"ready accepted with another manifest", []edit{{"fsm/moves.go", "if mismatch := m.MatchReady(*m.Ready); mismatch != nil {", "if mismatch := m.MatchReady(*m.Ready); mismatch != nil && false {"}}},
	{"ready accepted after abort", []edit{{"fsm/moves.go", "\tif err := m.Require(name, want); err != nil {", "\tif err := m.Require(name, want); err != nil && !(name == \"ready\" && m.Phase == migration.Aborted && m.Shipped != nil) {"}}},
	{"staging not keyed by move", []edit{
		{"internal/sim/node.go", "n.disk.sealed[f.Mark.Move], n.disk.marks[f.Mark.Move] = area.data, f.Mark", "n.disk.sealed[string(f.Mark.Prefix)], n.disk.marks[f.Mark.Move] = area.data, f.Mark"},
		{"internal/sim/node.go", "\tslice, ok := n.disk.sealed[f.Move]\n", "\tslice, ok := n.disk.sealed[string(f.Prefix)]\n"},
		{"internal/sim/node.go", "\tdelete(n.disk.sealed, f.Move)\n\tn.w.count(\"slice promoted\")", "\tn.w.count(\"slice promoted\")"},
		{"internal/sim/check.go", "d.sealed[m.ID]", "d.sealed[string(m.Prefix)]"}}},
	{"sealed staging takes more records", []edit{
		{"internal/agent/rules.go", "\tcase marked || slices.Contains(r.sealing, move):", "\tcase slices.Contains([]string{}, move):"},
		{"internal/sim/ship.go", "\tcase area != nil && area.done:", "\tcase area != nil && area.done && false:"}}},
	{"staging not durable before ready", []edit{{"internal/sim/node.go", "\tn.disk.sealed[f.Mark.Move], n.disk.marks[f.Mark.Move] = area.data, f.Mark\n\tdelete(n.staging, f.Mark.Move)\n",
		"\tn.after(n.rng.between(0, 500*time.Millisecond), func() {\n\t\tn.disk.sealed[f.Mark.Move], n.disk.marks[f.Mark.Move] = area.data, f.Mark\n\t\tdelete(n.staging, f.Mark.Move)\n\t})\n"}}},
	{"staging merged instead of replacing", []edit{{"internal/sim/store.go", "\tfor _, k := range s.data.under(p) {\n\t\tdelete(s.data, k)\n\t}\n", ""}}},
	{"cleanup on a stale view", []edit{{"internal/agent/rules.go", "\tc, pending := r.view.Cleanup(r.node, p)\n", "\tc, pending := Cleanup{Epoch: epoch}, true\n\treturn c.Epoch == epoch && pending\n"}}},
	{"cleanup not cancelled by a new tenure", []edit{{"fsm/moves.go", "\tfor owed := range tx.cleanups.overOf(owner, s.Prefix) {\n\t\ttx.dropCleanup(owed, \"cancelled\")\n", "\tfor owed := range tx.cleanups.overOf(owner, s.Prefix) {\n"}}},
	{"takeover of an unarmed scope", []edit{{"fsm/index.go", "return s.Armed && s.Failover", "return s.Failover"}}},
	{"takeover in the middle of a move", []edit{{"fsm/takeover.go", "\tfor range s.moves.RunningOver(sc.Prefix) {\n\t\treturn false\n\t}\n", ""}}},
	{"another identity admitted", []edit{{"fsm/sessions.go", `if n.Identity == "" || n.Identity == identity || n.Fenced {`, `if n.Identity == "" || n.Identity == identity || n.Fenced || true {`}}},
	{"tombstone ignored", []edit{{"fsm/scopes.go", "\t\tcase t.Owner != d.writer:\n", "\t\tcase t.Owner != d.writer && false:\n"}}},
	{"overlap checked one way only", []edit{{"fsm/scopes.go", "\tfor t := range tx.TombstonesOver(d.prefix) {\n", "\tfor t := range tx.TombstonesOver(d.prefix) {\n\t\tif !d.prefix.Contains(t.Prefix) {\n\t\t\tcontinue\n\t\t}\n"}}},
	{"view allowed to go back", []edit{{"internal/agent/session.go", "(v.index < t.view.index || v.index < t.session.opened)", "false"}}},
	{"hold not kept after a restore", []edit{{"fsm/restore.go", "tx.cluster.Hold, tx.cluster.Complete = true, r.Complete", "tx.cluster.Hold, tx.cluster.Complete = false, false"}}},
	{"hold ends although a node has not met the incarnation", []edit{{"fsm/hold.go", "if !tx.cluster.Complete || tx.unmet.Len() > 0 {", "if !tx.cluster.Complete {"}}},
	{"a scope is released although its owner has not met the incarnation", []edit{{"fsm/hold.go", "\tif !tx.met(s.Owner) {\n", "\tif false {\n"}}},
	{"a node's word applied without its session", []edit{
		{"fsm/moves.go", "\tn, err := tx.live(session)\n\tif err != nil {\n\t\treturn err\n\t}\n\tif n.ID != side {", "\tn, err := tx.live(session)\n\tif err != nil {\n\t\treturn nil\n\t}\n\tif n.ID != side {"},
		// Whose word it is, is looked at before that.
		{"fsm/authorize.go", "\t\td.owners = of(string(n.ID))\n\t}\n\treturn d, err\n", "\t\td.owners = of(string(n.ID))\n\t}\n\treturn d, nil\n"},
		{"fsm/authorize.go", "case reach == access.Own && !owns(d.owners, who):", "case reach == access.Own && len(d.owners) > 0 && !owns(d.owners, who):"}}},
	{"promotion while own writes are counted", []edit{{"internal/agent/target.go", "\tx.Prefix, x.doing = m.Prefix, draining\n\tt.putTarget(x)\n\tt.do(AwaitDrain{Slice{m.Move, m.Prefix}})\n", "\tx.Prefix, x.doing = m.Prefix, promoting\n\tt.putTarget(x)\n\tt.do(Promote{Slice{m.Move, m.Prefix}})\n"}}},
	{"a write leaves the count when its client gives up", []edit{
		{"internal/sim/client.go", "\t\tn.adm.Leave(&o.ticket)\n", ""},
		{"internal/sim/client.go", "\tn.ops[o.id] = o\n", "\tn.ops[o.id] = o\n\tn.after(300*time.Millisecond, func() { n.adm.Leave(&o.ticket); n.lookDrained() })\n"}}},
	{"promoted id taken again", []edit{
		{"internal/agent/rules.go", "\tcase marked && mark.Promoted:\n", "\tcase marked && mark.Promoted && false:\n"},
		{"internal/agent/rules.go", "\tcase marked || slices.Contains(r.sealing, move):", "\tcase marked && !mark.Promoted || slices.Contains(r.sealing, move):"},
		{"internal/agent/rules.go", "\tcase r.session == \"\" || r.closing:\n\t\treturn fmt.Errorf(\"move %s: node", "\tcase r.closing:\n\t\treturn fmt.Errorf(\"move %s: node"},
		{"internal/agent/target.go", "\tm, running := t.view.Move(e.Move)\n\t_, marked := t.marks.of(e.Move)\n\tx := t.targetOf(e.Move)\n\tif !running || marked ||", "\tm, running := t.view.Move(e.Move)\n\tmark, marked := t.marks.of(e.Move)\n\tx := t.targetOf(e.Move)\n\tif !running || marked && !mark.Promoted ||"},
		{"internal/sim/ship.go", "m.Manifest == sum {", "m.Manifest == sum && !m.Promoted {"}}},
	{"one incarnation number restored twice", []edit{
		{"fsm/sessions.go", "c.GetIncarnation() != tx.cluster.Incarnation || c.GetIncarnationTag() != tx.cluster.Tag {", "c.GetIncarnation() != tx.cluster.Incarnation {"},
		{"internal/agent/session.go", "other.Number == was.Number && other.Tag != was.Tag && was.Number > 0:", "false:"},
		{"internal/agent/session.go", "\tcase v.incarnation.Number == was.Number && v.incarnation.Tag != was.Tag:\n", "\tcase false:\n"},
		{"internal/agent/session.go", "case t.partial != nil, its != t.view.incarnation, t.view.index == 0:", "case t.partial != nil, its.Number != t.view.incarnation.Number, t.view.index == 0:"},
		{"internal/agent/session.go", "\tcase t.view.incarnation != s.incarnation:\n", "\tcase t.view.incarnation.Number != s.incarnation.Number:\n"}}},
	{"requests are not remembered", []edit{{"fsm/apply.go", "\t\tif earlier != nil {\n", "\t\tif earlier != nil && false {\n"}}},
	{"index not advanced by a refused command", []edit{{"fsm/apply.go", "\tnext.index = index + next.base // also", "\tif len(events) > 0 {\n\t\tnext.index = index + next.base\n\t} else {\n\t\tnext.index = s.index\n\t} // also"}}},
}
