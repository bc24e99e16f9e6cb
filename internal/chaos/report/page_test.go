package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/chaos/check"
	"github.com/scope-registry/scope-registry/internal/chaos/history"
	"github.com/scope-registry/scope-registry/internal/chaos/timeline"
)

// outside is what a browser would fetch from somewhere, or run.
var outside = regexp.MustCompile(`(?i)(<script|<link|<img|<iframe|@import|url\(|\s(src|href|srcset|data|on[a-z]+)\s*=|https?://[^"]*)`)

// namespace is the one address that a page has: no browser goes there.
const namespace = `xmlns="http://www.w3.org/2000/svg"`

func pageOf(t *testing.T, run *history.Run, checks []check.Result, ended error) string {
	t.Helper()
	var out bytes.Buffer
	if err := Of(run, checks, ended).Page(&out, timeline.Of(run)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// words is what a page shows, one space between any two words. It must be well-formed.
func words(t *testing.T, page string) string {
	t.Helper()
	var b strings.Builder
	for d := xml.NewDecoder(strings.NewReader(page)); ; {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF):
			return strings.Join(strings.Fields(b.String()), " ")
		case err != nil:
			t.Fatalf("the page is not well-formed: %v", err)
		}
		if text, ok := token.(xml.CharData); ok {
			b.Write(text)
			b.WriteByte(' ')
		}
	}
}

func TestPage(t *testing.T) {
	page := pageOf(t, small(), []check.Result{{Name: "order", Checked: 12, Unit: "operations", Violations: []string{`lost <b>"x"</b> & more`}, Violated: 3},
		{Name: "effect", Voids: []string{"calm"}}}, errors.New("interrupted"))
	text := words(t, page)
	for _, want := range []string{
		"Promises were broken. Violations: 3,", "a test · scenario every · seed 7", "servers v1 and v2 · run by v3, go1",
		`violation order: lost <b>"x"</b> & more`, "violation order: and 2 more", "void effect: calm", "void ended early: interrupted",
		"order 12 operations 3 0 0.00 s",
		"kill 1 5.00 s 5.00 s 3.00 s 3.00 s",
		"5.00 s kill s1 2.0 s s2 1.0 s 5.00 s 3.00 s 0 / 0 / 0 0, 0 not shown", "kill-owner d1 1.0 s - 1.00 s 1.00 s 0 / 1 0, 0 shown",
		"declare 2 1 0 0", "write at a data node 2 1 1",
		"done 3 without writes, p50 20 ms without writes, max 70 ms aborted: window 1",
		"make <chaos> & more", "the logs are s1.log s2.log d1.log d2.log",
		"kill of s1: in force 5.0–8.0 s, all servers served again at 9.0 s; s2 leads, seen 1.00 s after the begin",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if all := strings.Index(text, "All violations and voids"); strings.Index(text, "and 2 more") < all || strings.Index(text, "Timeline") < strings.Index(text, "void effect: calm") {
		t.Error("the first findings are not at the begin of the page, or all others are")
	}
	if t.Failed() {
		t.Log(text)
	}
	if found := outside.FindAllString(strings.ReplaceAll(page, namespace, ""), -1); len(found) > 0 {
		t.Errorf("the page refers to something else: %q", found)
	}
}

// TestPageWithoutNodes has none of the columns and sections of data nodes.
func TestPageWithoutNodes(t *testing.T) {
	run := small()
	run.Setup.Nodes, run.Writes, run.Seen, run.Faults = nil, nil, nil, run.Faults[:1]
	text := words(t, pageOf(t, run, nil, nil))
	for _, strange := range []string{"Moves between data nodes", "no write of a scope", "write at a data node", "writes acknowledged", "no write for", "move done"} {
		if strings.Contains(text, strange) {
			t.Errorf("the page of a run without data nodes speaks of %q", strange)
		}
	}
	if !strings.Contains(text, "found nothing") {
		t.Errorf("a pass is not told: %s", text)
	}
	words(t, pageOf(t, &history.Run{}, nil, errors.New("nothing was done")))
}

// TestEachLookHasAColour: what the timeline draws, the page colours, in light and in dark.
func TestEachLookHasAColour(t *testing.T) {
	page := pageOf(t, small(), nil, nil)
	for _, look := range Of(small(), nil, nil).looks() {
		if n := strings.Count(page, "--"+look+": #"); n != 2 {
			t.Errorf("look %s has %d colours, not one in light and one in dark", look, n)
		}
	}
}

// TestPageIsSmall: ten minutes of faults, moves and writes.
func TestPageIsSmall(t *testing.T) {
	run := small()
	one := run.Faults[0]
	run.Faults = nil
	for i := range 90 {
		at := time.Duration(i) * 6700 * time.Millisecond
		one.Begin, one.Active, one.Heal, one.End = at, at+time.Second, at+3*time.Second, at+4*time.Second
		run.Faults = append(run.Faults, one)
	}
	w := run.Writes[0]
	for i := range 12000 { // a gap every half second of each of ten scopes
		w.Scope, w.Return = fmt.Sprintf("data:%02d:", i%10), int64(i/10)*int64(500*time.Millisecond)
		run.Writes = append(run.Writes, w)
	}
	if page := pageOf(t, run, nil, nil); len(page) > 2<<20 {
		t.Errorf("the page has %d bytes", len(page))
	}
}

// TestTextFits: no line of a table is wider than a terminal.
func TestTextFits(t *testing.T) {
	run := small()
	run.Setup.Servers, run.Setup.Nodes = []string{"s1", "s2", "s3"}, []string{"d1", "d2", "d3", "d4"}
	codes := map[string]bool{}
	for i := range 20 {
		op := history.Op{Kind: history.Declare, Server: "s1", Outcome: history.Refused}
		op.Code = "A_LONG_CODE_" + run.Ops[2].Code[:i%10] + "X"
		codes[string(op.Code)] = true
		run.Ops = append(run.Ops, op)
	}
	for i := range run.Faults {
		f := &run.Faults[i]
		f.Name, f.Servers = history.PauseFollower, run.Setup.Nodes[:4]
		if i == 0 {
			f.Servers = run.Setup.Servers
		}
	}
	for range 300 {
		for _, s := range run.Setup.Servers {
			run.Ops = append(run.Ops, history.Op{Kind: history.Declare, Server: s, Outcome: history.OK, Call: 7 * time.Second, Return: 7 * time.Second})
		}
	}
	var out bytes.Buffer
	if err := Of(run, nil, nil).Text(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > width {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		if !strings.Contains(out.String(), code+" ") {
			t.Errorf("%s is not told in:\n%s", code, out.String())
		}
	}
}
