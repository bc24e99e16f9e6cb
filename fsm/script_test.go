package fsm

import (
	"crypto/sha256"
	"fmt"
	"iter"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// TestScripts runs the specification in testdata. Each line under "run" is one
// log entry; below it stand its result and the records it changed ("+" put, "-"
// deleted). Rewrite the outputs with -rewrite and review the diff.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			s := &script{t: t, shown: map[string]access.Who{}}
			datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
				s.t, s.out = t, strings.Builder{}
				s.perform(d)
				return s.out.String()
			})
		})
	}
}

type script struct {
	t     *testing.T
	state State
	last  Envelope
	term  uint64 // of the next entry
	out   strings.Builder
	shown map[string]access.Who // whose tokens are or were, by id: their holders may show them for ever
	saved []byte                // a backup
}

func (s *script) perform(d *datadriven.TestData) {
	lines := strings.Split(d.Input, "\n")
	switch d.Cmd {
	case "run":
		if d.HasArg("fresh") {
			s.found()
		}
		if d.HasArg("empty") {
			s.state = State{}
		}
		for _, line := range lines {
			fmt.Fprintf(&s.out, "> %s\n", line)
			s.line(line)
		}
	case "batch":
		s.apply(Envelope{Actor: "ann", Command: s.batch(d, lines)})
	case "plan":
		s.plan(s.batch(d, lines))
	case "show":
		s.show()
	default:
		s.t.Fatalf("%s: unknown directive %q; use run, batch, plan or show", d.Pos, d.Cmd)
	}
}

// found begins anew with a founded cluster of four nodes, at index 5.
func (s *script) found() {
	s.state = State{}
	for _, line := range []string{"init c1", "node n1 h1:1", "node n2 h2:1", "node n3 h3:1", "node n4 h4:1"} {
		s.line(line)
	}
	s.out.Reset()
}

func (s *script) line(line string) {
	a := parseArgs(s.t, line)
	s.term = max(1, a.num(s.t, "at-term"))
	if s.access(a) {
		return
	}
	switch a.cmd {
	case "settled":
		sc, ok := s.state.Scopes().Get(scope.Prefix(a.prefix(s.t, 0)))
		fmt.Fprintf(&s.out, "  %v\n", ok && s.state.Settled(sc))
	case "sessions":
		for id, held := range s.state.Sessions() {
			fmt.Fprintf(&s.out, "  %s %s opened=%d view=%d\n", held.ID, id, held.Opened, held.View)
		}
	case "show":
		s.show()
	case "servers":
		s.servers()
	case "restore":
		s.restore(a)
	case "route":
		key, err := scope.ParseBytes(a.pos(0))
		if err != nil {
			s.t.Fatal(err)
		}
		r := s.state.Route([]byte(key), scope.NodeID(a.text("as")))
		fmt.Fprintf(&s.out, "  %s %s\n", r.Verdict, s.state.Addr(r.Target()))
	case "retry":
		s.apply(s.last)
	default:
		s.last = Envelope{RequestID: a.text("id-req"), Actor: "ann", Origin: s.origin(a), Command: a.command(s.t)}
		s.apply(s.last)
	}
}

func (s *script) batch(d *datadriven.TestData, lines []string) *Batch {
	b := &Batch{Prune: d.HasArg("prune")}
	if d.HasArg("ifindex") {
		b.CheckIndex = true
		d.ScanArgs(s.t, "ifindex", &b.IfIndex)
	}
	for _, line := range lines {
		if line == "" {
			continue
		}
		switch c := parseArgs(s.t, line).command(s.t).(type) {
		case *SetNode:
			b.Nodes = append(b.Nodes, c)
		case *Declare:
			b.Scopes = append(b.Scopes, c)
		default:
			s.t.Fatalf("%s: %q cannot be in a batch", d.Pos, line)
		}
	}
	return b
}

func (s *script) plan(b *Batch) {
	before := s.state.Hash()
	p, err := s.state.Plan(b)
	if err != nil {
		fmt.Fprintf(&s.out, "  %s\n", indented(err.Error()))
	}
	for _, c := range p.Changes {
		fmt.Fprintf(&s.out, "  %s %s %s: %q -> %q\n", c.Op, c.Kind, c.Name, c.Before, c.After)
	}
	for _, k := range p.Kept {
		fmt.Fprintf(&s.out, "  kept: %s\n", k)
	}
	if s.state.Hash() != before {
		s.t.Fatal("a plan changed the state")
	}
}

// apply goes through the encoded form, as a server does.
func (s *script) apply(e Envelope) {
	raw, err := e.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	index := s.state.Index() + 1
	entry, err := EncodeEntry(int64(index)*1000, [][]byte{raw})
	if err != nil {
		s.t.Fatal(err)
	}
	next, results, events, err := s.state.ApplyEntry(index, max(1, s.term), entry)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := next.Check(); err != nil {
		s.t.Fatalf("after %v: %v", e.Command, err)
	}
	s.state = next
	for t := range next.Tokens() {
		s.shown[t.ID] = t.Who()
	}
	s.result(results[0])
	for _, ev := range events {
		fmt.Fprintf(&s.out, "  %s\n", eventText(ev))
	}
}

func (s *script) result(r *Result) {
	code := "ok"
	if r.GetCode() != "" {
		code = r.GetCode()
	}
	fmt.Fprintf(&s.out, "  %s @%d%s%s%s%s%s%s\n", code, r.GetIndex(), field("epoch", r.GetEpoch()), field("move", r.GetMove()),
		field("owner", r.GetOwner()), field("conflicts", scope.BytesText(string(r.GetConflictsWith()))),
		field("changed", r.GetChanged()), field("floor", r.GetFloor()))
	if r.GetDetail() != "" {
		fmt.Fprintf(&s.out, "  : %s\n", indented(clipped(r.GetDetail())))
	}
	for _, w := range r.GetWarnings() {
		fmt.Fprintf(&s.out, "  ! %s\n", w)
	}
	if code != "ok" && !api.Code(code).Known() {
		s.t.Fatalf("code %q is not in the table", code)
	}
}

func indented(text string) string { return strings.ReplaceAll(text, "\n", "\n  : ") }

func clipped(text string) string {
	if len(text) > 1200 {
		return text[:1200] + "..."
	}
	return text
}

func field[T comparable](name string, v T) string {
	var zero T
	if v == zero {
		return ""
	}
	return fmt.Sprintf(" %s=%v", name, v)
}

func eventText(e Event) string {
	sign := "+"
	if e.Deleted {
		sign = "-"
	}
	set, body := 0, ""
	add := func(text string) { set, body = set+1, text }
	if e.Cluster != nil {
		add(clusterText(*e.Cluster))
	}
	if e.Node != nil {
		add(nodeText(*e.Node))
	}
	if e.Scope != nil {
		add(scopeText(e.Scope))
	}
	if e.Move != nil {
		add(moveText(*e.Move))
	}
	if e.Cleanup != nil {
		add(fmt.Sprintf("cleanup %s %q epoch=%d move=%s", e.Cleanup.Node, e.Cleanup.Prefix.Text(), e.Cleanup.Epoch, e.Cleanup.Move))
	}
	if e.Tombstone != nil {
		add(tombstoneText(*e.Tombstone))
	}
	if e.Token != nil {
		add(tokenText(*e.Token))
	}
	if set != 1 {
		return fmt.Sprintf("BAD EVENT with %d records", set)
	}
	return sign + " " + e.Cause + ": " + body
}

func nodeText(n Node) string {
	text := fmt.Sprintf("node %s %s%s", n.ID, n.Addr, field("identity", n.Identity))
	if n.Live() {
		text += fmt.Sprintf(" session=%s opened=%d view=%d", n.Session.ID, n.Session.Opened, n.Session.View)
	}
	if n.Expired {
		text += " expired"
	}
	if n.Fenced {
		text += " fenced"
	}
	if n.Incarnation > 1 {
		text += field("met", n.Incarnation)
	}
	return text
}

func scopeText(s *scope.Scope) string {
	text := fmt.Sprintf("scope %q %s owner=%s epoch=%d", s.Prefix.Text(), describe(s), s.Owner, s.Epoch)
	if s.Armed {
		text += " armed"
	}
	if s.Released {
		text += " released"
	}
	return text + field("quiesced", string(s.Quiesced))
}

func tombstoneText(t Tombstone) string {
	return fmt.Sprintf("tombstone %q owner=%s epoch=%d", t.Prefix.Text(), t.Owner, t.Epoch)
}

func moveText(m migration.Move) string {
	return fmt.Sprintf("move %s %q %s->%s %s %s epoch=%d%s%s%s", m.ID, m.Prefix.Text(), m.From, m.To, m.Mode, m.Phase, m.Epoch,
		field("new", m.NewEpoch), field("cause", m.Cause), field("n", m.Finished))
}

func (s *script) show() {
	c := s.state.Cluster()
	fmt.Fprintf(&s.out, "  cluster %s index=%d config=%d next=%d%s\n", c.ID, s.state.Index(), s.state.ConfigIndex(), c.NextEpoch, incarnationText(c))
	for n := range s.state.Nodes() {
		fmt.Fprintf(&s.out, "  %s\n", nodeText(n))
	}
	for sc := range s.state.Scopes().Scopes() {
		fmt.Fprintf(&s.out, "  %s\n", scopeText(sc))
	}
	for t := range s.state.TombstonesOver("") {
		fmt.Fprintf(&s.out, "  %s\n", tombstoneText(t))
	}
	s.moves(s.state.Moves().Running())
	s.moves(s.state.Moves().Finished())
	for c := range s.state.CleanupsOver("") {
		fmt.Fprintf(&s.out, "  cleanup %s %q epoch=%d move=%s\n", c.Node, c.Prefix.Text(), c.Epoch, c.Move)
	}
}

func (s *script) moves(all iter.Seq[migration.Move]) {
	for m := range all {
		fmt.Fprintf(&s.out, "  %s\n", moveText(m))
	}
}

// args are the words of a script line: a command, positions, and name=value.
type args struct {
	cmd   string
	words []string
	named map[string]string
}

func parseArgs(t *testing.T, line string) args {
	t.Helper()
	words := strings.Fields(line)
	if len(words) == 0 {
		t.Fatal("an empty line in a script")
	}
	a := args{cmd: words[0], named: map[string]string{}}
	for _, w := range words[1:] {
		if name, value, ok := strings.Cut(w, "="); ok {
			a.named[name] = value
		} else {
			a.words = append(a.words, w)
		}
	}
	return a
}

func (a args) pos(i int) string {
	if i >= len(a.words) || a.words[i] == `""` {
		return ""
	}
	return a.words[i]
}

// text is a named value; "a*513" stands for a long one.
func (a args) text(name string) string { return repeated(a.named[name]) }

func repeated(text string) string {
	if unit, n, ok := strings.Cut(text, "*"); ok {
		if times, err := strconv.Atoi(n); err == nil {
			return strings.Repeat(unit, times)
		}
	}
	return text
}

func (a args) num(t *testing.T, name string) uint64 {
	t.Helper()
	if a.named[name] == "" {
		return 0
	}
	n, err := strconv.ParseUint(a.named[name], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (a args) has(word string) bool {
	for _, w := range a.words {
		if w == word {
			return true
		}
	}
	return false
}

func (a args) prefix(t *testing.T, i int) []byte {
	t.Helper()
	raw, err := scope.ParseBytes(repeated(a.pos(i)))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(raw)
}

func (a args) manifest(t *testing.T) *Manifest {
	t.Helper()
	return &Manifest{Keys: a.num(t, "keys"), Bytes: a.num(t, "bytes"), Digest: a.text("digest")}
}

func (a args) command(t *testing.T) Command {
	t.Helper()
	switch a.cmd {
	case "init":
		return &InitCluster{Id: a.pos(0), LogFormat: a.num(t, "format")}
	case "node":
		return &SetNode{Id: a.pos(0), Addr: a.pos(1)}
	case "rmnode":
		return &RemoveNode{Id: a.pos(0), SourceFenced: a.text("fenced"), SourceFencedIdentity: a.text("identity")}
	case "declare":
		return &Declare{Prefix: a.prefix(t, 0), Writer: a.text("writer"), Fallback: a.text("fallback"), Failover: a.text("failover"),
			Lease: a.text("lease"), ExpectedEpoch: a.num(t, "epoch"), SourceFenced: a.text("fenced"),
			SourceFencedIdentity: a.text("identity")}
	case "retire":
		return &Retire{Prefix: a.prefix(t, 0), ExpectedEpoch: a.num(t, "epoch"), SourceFenced: a.text("fenced"), SourceFencedIdentity: a.text("identity")}
	case "cleaned":
		return &Cleaned{Node: a.pos(0), Prefix: a.prefix(t, 1), Epoch: a.num(t, "epoch"), Reason: a.text("reason"),
			Session: a.text("session"), Move: a.text("move")}
	case "force":
		return &Force{Id: a.pos(0), Prefix: a.prefix(t, 1), To: a.text("to"), ExpectedEpoch: a.num(t, "epoch"),
			AcceptLoss: a.has("accept-loss"), SourceFenced: a.text("fenced"), SourceFencedIdentity: a.text("identity"), Reason: a.text("reason")}
	case "release":
		return &Release{Prefix: a.prefix(t, 0), SourceFenced: a.has("fenced"), Reason: a.text("reason"), Incarnation: a.num(t, "inc")}
	}
	return a.moveCommand(t)
}

func (a args) moveCommand(t *testing.T) Command {
	t.Helper()
	switch a.cmd {
	case "move":
		return &StartMove{Id: a.pos(0), Prefix: a.prefix(t, 1), From: a.text("from"), To: a.text("to"), Mode: a.text("mode"),
			ExpectedEpoch: a.num(t, "epoch"), Precopy: a.has("precopy"), WindowMs: a.num(t, "window"), TimeoutMs: a.num(t, "timeout"),
			Reason: a.text("reason")}
	case "quiesce":
		return &Quiesce{Move: a.pos(0)}
	case "shipped":
		return &Shipped{Move: a.pos(0), Manifest: a.manifest(t), Session: a.text("session")}
	case "ready":
		return &Ready{Move: a.pos(0), Manifest: a.manifest(t), Session: a.text("session")}
	case "abort":
		return &Abort{Move: a.pos(0), Cause: a.text("cause"), Reason: a.text("reason"), Session: a.text("session")}
	}
	return a.sessionCommand(t)
}

// sessionCommand reads "open" with the cluster's incarnation, the identity
// "<node>-disk" and the token "<session>-token", unless the line gives others.
func (a args) sessionCommand(t *testing.T) Command {
	t.Helper()
	or := func(name, otherwise string) string {
		if text, ok := a.named[name]; ok {
			return repeated(text)
		}
		return otherwise
	}
	switch a.cmd {
	case "open":
		incarnation := uint64(1)
		if a.named["inc"] != "" {
			incarnation = a.num(t, "inc")
		}
		return &OpenSession{Node: a.pos(0), Session: repeated(a.pos(1)), Identity: or("identity", a.pos(0)+"-disk"), TokenHash: tokenHash(or("token", a.pos(1)+"-token")),
			PreviousTokenHash: tokenHash(or("prev", "")), Incarnation: incarnation, IncarnationTag: or("tag", "c1"), View: a.num(t, "view")}
	case "close":
		return &CloseSession{Session: a.pos(0)}
	case "expire":
		term := uint64(1)
		if a.named["term"] != "" {
			term = a.num(t, "term")
		}
		return &Expire{Session: a.pos(0), Term: term}
	case "ack":
		return &Ack{Session: a.pos(0), View: a.num(t, "view")}
	case "fence":
		return &FenceNode{Node: a.pos(0), Identity: a.text("identity")}
	}
	return a.serverCommand(t)
}

// tokenHash is nothing for no token, and too short for the token "short".
func tokenHash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	switch token {
	case "":
		return nil
	case "short":
		return sum[:TokenHashLen-1]
	}
	return sum[:]
}
