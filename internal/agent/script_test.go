package agent

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/migration"
	"github.com/scope-registry/scope-registry/scope"
)

// TestScripts runs the specification in testdata: what a node keeps of the
// protocol, a section for each rule. Each line under "run" is an event, or a
// question to the admission; below it stand the effects, or the answer. Rewrite
// the outputs with -rewrite and review the diff.
//
// "run" begins with a node n1 that is ready: its session s1 was opened at 11, its
// view is there, its lease ends at 8s. It starts with an empty disk at 0s, and
// the words of the directive go into its first snapshot, see (*script).change.
// "run bare" begins with nothing but a process. Nothing is printed of either.
//
// After every line the harness checks what holds everywhere: rules are published
// before anything else is begun, a Tick that comes again at once finds nothing to
// do, and the next one is not due yet.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			s := &script{}
			datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
				s.t, s.out = t, strings.Builder{}
				s.begin(d)
				for _, line := range strings.Split(d.Input, "\n") {
					fmt.Fprintf(&s.out, "> %s\n", line)
					s.line(line)
				}
				return s.out.String()
			})
		})
	}
}

// script is a node's process, its disk, and what its runner knows.
type script struct {
	t       *testing.T
	state   State
	now     time.Duration
	cfg     Config
	adm     *Admission
	late    *Rules          // not nil: rules that a step made are kept here until "publish"
	stream  uint64          // the last one that was asked for
	disk    map[string]Mark // survives a restart
	seals   map[string]Mark // that were asked for
	tickets map[string]Ticket
	out     strings.Builder
}

// begin makes the node that the directive describes.
func (s *script) begin(d *datadriven.TestData) {
	if d.Cmd != "run" {
		s.t.Fatalf("%s: unknown directive %q; use run", d.Pos, d.Cmd)
	}
	s.machine()
	bare, records := false, []string{""}
	for _, arg := range d.CmdArgs {
		switch word := arg.String(); word {
		case "bare":
			bare = true
		case "refuse-unknown":
			s.cfg.RefuseUnknown = true
		default:
			if records[0] == "" {
				records[0] = " |"
			}
			records = append(records, word)
		}
	}
	s.process()
	if !bare {
		s.ready(strings.Join(records, " "))
	}
	s.out.Reset()
}

// machine is a new one, with an empty disk.
func (s *script) machine() {
	s.now, s.disk, s.seals = 0, map[string]Mark{}, map[string]Mark{}
	s.cfg = Config{Node: "n1", Identity: "disk1", Times: api.DefaultLeases(), Grace: 10 * time.Second, Stripes: 2}
}

// ready makes the new process one that may admit, with these records in its first
// snapshot.
func (s *script) ready(records string) {
	for _, line := range []string{"tick", "snap 10 | node n1 | node n2 s2@8 | node n3 s3@9" + records, "opened s1 11", "item 11 | node n1 s1@11", "renewed s1 sent=0s index=11"} {
		s.line(line)
	}
}

// process starts one, with what the disk holds.
func (s *script) process() {
	var held []Mark
	for _, id := range slices.Sorted(maps.Keys(s.disk)) {
		held = append(held, s.disk[id])
	}
	s.state = New(s.cfg, s.now, held)
	s.adm, s.tickets, s.stream, s.late = NewAdmission(s.state), map[string]Ticket{}, 0, nil
}

func (s *script) line(line string) {
	a := parseWords(s.t, line)
	switch a.cmd {
	case "clock": // without an event
		s.now = a.duration(0)
	case "restart":
		s.process()
		s.step(Tick{})
	case "tick":
		if len(a.words) > 0 {
			s.now = a.duration(0)
		}
		s.step(Tick{})
	case "durable": // what the disk has, though nobody was told
		m, sealed := s.seals[a.pos(0)]
		if !sealed {
			m = s.disk[a.pos(0)]
		}
		m.Promoted = a.has("promoted")
		s.disk[m.Move] = m
	case "mark": // as an earlier process left it
		s.disk[a.pos(0)] = Mark{Move: a.pos(0), Prefix: a.prefix(1), Manifest: a.manifest(), Promoted: a.has("promoted"), Incarnation: s.incarnation(a), Ended: a.number(a.named["ended"])}
	case "late": // a writer comes between a step and the publishing of its rules
		s.late = s.adm.Rules()
	case "publish":
		s.adm.Publish(s.late)
		s.late = nil
	case "status":
		s.status()
	case "due":
		fmt.Fprintf(&s.out, "  %s\n", s.state.Due())
	default:
		if e := s.event(a); e != nil {
			s.step(e)
			return
		}
		s.ask(a)
	}
}

// step feeds an event, puts the rules in force and prints what else is to be done.
func (s *script) step(e Event) {
	var effects []Effect
	s.state, effects = Step(s.state, s.now, e)
	for i, effect := range effects {
		switch effect := effect.(type) {
		case Publish:
			if i != 0 {
				s.t.Fatalf("%T was begun before the rules were published", effects[0])
			}
			if s.late != nil {
				s.late = effect.Rules
				continue
			}
			s.adm.Publish(effect.Rules)
			continue
		case Watch:
			s.stream = effect.Stream
		case Seal:
			s.seals[effect.Mark.Move] = effect.Mark
		}
		fmt.Fprintf(&s.out, "  %s\n", effectText(effect))
	}
	if _, more := Step(s.state, s.now, Tick{}); len(more) != 0 {
		s.t.Fatalf("a tick at once finds something to do: %s", effectText(more[0]))
	}
	if due := s.state.Due(); due != 0 && due <= s.now {
		s.t.Fatalf("at %s the next tick is due at %s: whoever runs the node spins", s.now, due)
	}
}

func effectText(e Effect) string {
	switch e := e.(type) {
	case Watch:
		return fmt.Sprintf("watch #%d from=%d", e.Stream, e.From)
	case OpenSession:
		return fmt.Sprintf("open inc=%s view=%d", incarnationText(e.Incarnation), e.View)
	case Renew:
		return fmt.Sprintf("renew %s view=%d", e.Renewal.Session, e.Renewal.View)
	case AwaitDrain:
		return "await-drain" + field("move", e.Move) + field("prefix", e.Prefix.Text())
	case Copy:
		return fmt.Sprintf("copy %s %s to=%s", e.Move, e.Prefix.Text(), e.To)
	case Ship:
		return fmt.Sprintf("ship %s %s to=%s", e.Move, e.Prefix.Text(), e.To)
	case StopShipping:
		return "stop-shipping " + e.Move
	case Seal:
		return fmt.Sprintf("seal %s %s keys=%d", e.Mark.Move, e.Mark.Prefix.Text(), e.Mark.Manifest.Keys) + field("ended", e.Mark.Ended)
	case Promote:
		return fmt.Sprintf("promote %s %s", e.Move, e.Prefix.Text())
	case Discard:
		return "discard " + e.Move
	case Delete:
		return fmt.Sprintf("delete %s e%d", e.Prefix.Text(), e.Epoch)
	case Tell:
		text := fmt.Sprintf("tell %s by=%s keys=%d left=%d", e.Report.Move, e.Report.Session, e.Report.Keys, e.Report.KeysLeft)
		if e.Report.Early {
			text += " early"
		}
		return text
	case Say:
		return wordText(e.Word)
	}
	return fmt.Sprintf("%T", e)
}

func wordText(w Word) string {
	name := map[Kind]string{SayShipped: "shipped", SayReady: "ready", SayAbort: "abort", SayCleaned: "cleaned", SayClose: "close"}[w.Kind]
	return "say " + name + " by=" + w.Session + field("move", w.Move) + field("keys", w.Manifest.Keys) + field("reason", w.Reason) +
		field("prefix", w.Prefix.Text()) + field("epoch", w.Epoch)
}

func field[T comparable](name string, v T) string {
	var zero T
	if v == zero {
		return ""
	}
	return fmt.Sprintf(" %s=%v", name, v)
}

func incarnationText(i Incarnation) string { return fmt.Sprintf("%d:%s", i.Number, i.Tag) }

func (s *script) status() {
	st := s.state
	fmt.Fprintf(&s.out, "  view=%d inc=%s%s ready=%v lease=%s stopped=%v\n", st.View().Index(), incarnationText(st.View().Incarnation()),
		field("session", st.Session()), st.Ready(), st.LeaseUntil(), st.Stopped())
	if st.Fault() != "" {
		fmt.Fprintf(&s.out, "  fault: %s\n", st.Fault())
	}
}

// words are those of a script line: a command, positions, and name=value.
type words struct {
	t     *testing.T
	cmd   string
	words []string
	named map[string]string
	parts []words // after each "|"
}

func parseWords(t *testing.T, line string) words {
	t.Helper()
	head, rest, more := strings.Cut(line, "|")
	a := words{t: t, named: map[string]string{}}
	for _, w := range strings.Fields(head) {
		name, value, named := strings.Cut(w, "=")
		switch {
		case a.cmd == "":
			a.cmd = w
		case named:
			a.named[name] = value
		default:
			a.words = append(a.words, w)
		}
	}
	if a.cmd == "" {
		t.Fatalf("an empty command in %q", line)
	}
	if more {
		for _, part := range strings.Split(rest, "|") {
			a.parts = append(a.parts, parseWords(t, part))
		}
	}
	return a
}

func (a words) pos(i int) string {
	if i < len(a.words) {
		return a.words[i]
	}
	return ""
}

func (a words) has(word string) bool { return slices.Contains(a.words, word) }

func (a words) or(name, otherwise string) string {
	if v, ok := a.named[name]; ok {
		return v
	}
	return otherwise
}

func (a words) number(text string) uint64 {
	if text == "" {
		return 0
	}
	a.t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		a.t.Fatalf("%s: %v", a.cmd, err)
	}
	return n
}

// epoch is a word like e5.
func (a words) epoch() uint64 {
	for _, w := range a.words {
		if n, err := strconv.ParseUint(strings.TrimPrefix(w, "e"), 10, 64); err == nil && w[0] == 'e' {
			return n
		}
	}
	return 0
}

func (a words) duration(i int) time.Duration { return a.span(a.pos(i)) }

func (a words) span(text string) time.Duration {
	a.t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		a.t.Fatalf("%s: %v", a.cmd, err)
	}
	return d
}

// prefix is a position; * is the empty one, which owns everything.
func (a words) prefix(i int) scope.Prefix {
	if a.pos(i) == "*" {
		return ""
	}
	return scope.Prefix(a.pos(i))
}

func (a words) manifest() migration.Manifest {
	return migration.Manifest{Keys: a.number(a.named["keys"])}
}
