package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// walk is what a node may meet, a line for each; %d is the next index.
var walk = []string{
	"tick", "tick", "tick",
	"item %d | scope a: n1 e%[1]d",
	"item %d | scope a: n2 e%[1]d",
	"item %d | scope a: n1 e%[1]d fallback=n2",
	"item %d | -scope a:",
	"item %d | scope b: n1 e%[1]d | scope c: n2 e%[1]d",
	"item %d | scope a: n1 e5 to=n2 | move m1 a: n1>n2 quiescing e5",
	"item %d | move m1 a: n1>n2 copying e5",
	"item %d | move m1 a: n1>n2 shipped e5",
	"item %d | move m1 a: n1>n2 aborted e5 | scope a: n1 e5",
	"item %d | move m2 a: n2>n1 quiescing e5",
	"item %d | move m2 a: n2>n1 shipped e5",
	"item %d | move m2 a: n2>n1 done e5 new=%[1]d | scope a: n1 e%[1]d",
	"item %d | move m2 a: n2>n1 aborted e5",
	"item %d | move m3 a: n2>n1 quiescing e5",
	"item %d | move m3 a: n2>n1 done e5 new=%[1]d | scope a: n1 e%[1]d",
	"item %d | cleanup n1 a: e5", "item %d | -cleanup n1 a: e5",
	"item %d | node n1 s1@11", "item %d | node n1 s2@11", "item %d | node n1",
	"item %d | cluster hold", "item %d | cluster",
	"snap %d | node n1 s1@11 | scope a: n1 e5", "beat %d", "beat %d inc=2:y", "snap 9 inc=2:y | node n1 | scope a: n1 e5", "beat %d inc=1:z",
	"ended", "ended COMPACTED", "error SLOW",
	"opened s1 11", "opened s2 %d", "open-failed STALE_EPOCH", "open-failed SESSION_BUSY",
	"renewed s1 sent=0s index=%d", "renew-failed s1 SESSION_EXPIRED", "renew-failed s2 SESSION_EXPIRED",
	"drained m1", "drained m2", "drained m3", "drained", "shipped m1 keys=3", "ship-failed m1 no", "ship-failed m2 no",
	"staging m2", "staging m3", "received m2 keys=3", "received m3 keys=4",
	"sealed m2", "sealed m3", "promoted m2", "promoted m3", "discarded m2", "discarded m3",
	"deleted a: e5", "deleted a: e5 done", "shutdown", "closed s1", "closed s2", "restart",
}

// FuzzSteps walks at random through what a node may meet, in any order, and what
// the harness of the scripts checks holds after every step. Beside that: a slice
// has one effect under way, is promoted once in a process, and while it waits for
// that its scope takes no writes.
func FuzzSteps(f *testing.F) {
	f.Add([]byte("a quick brown fox jumps over the lazy dog"))
	f.Add(path(
		"item %d | move m2 a: n2>n1 quiescing e5", "staging m2", "received m2 keys=3", "sealed m2", "item %d | move m2 a: n2>n1 shipped e5",
		"item %d | move m2 a: n2>n1 done e5 new=%[1]d | scope a: n1 e%[1]d", "drained m2", "drained m2", "item %d | scope a: n2 e%[1]d",
		"item %d | move m3 a: n2>n1 quiescing e5", "received m3 keys=4", "sealed m3", "item %d | move m3 a: n2>n1 done e5 new=%[1]d | scope a: n1 e%[1]d",
		"drained m3", "promoted m2", "drained m3", "promoted m3", "item %d | cleanup n1 a: e5", "restart", "tick"))
	f.Fuzz(func(t *testing.T, steps []byte) {
		s := begun(t)
		w := &walker{script: s, under: map[string]string{}}
		for i, b := range steps[:min(len(steps), 120)] {
			line := walk[int(b)%len(walk)]
			s.now += time.Duration(b) * 7 * time.Millisecond
			if strings.Contains(line, "%") {
				line = fmt.Sprintf(line, 12+i)
			}
			w.line(line)
		}
	})
}

// path is the walk through these lines.
func path(lines ...string) (steps []byte) {
	for _, line := range lines {
		steps = append(steps, byte(slices.Index(walk, line)))
	}
	return steps
}

type walker struct {
	*script
	under    map[string]string // move → the effect that was not answered yet
	promoted []string          // in this process
}

var answers = map[string]string{"sealed": "seal", "promoted": "promote", "discarded": "discard"}

// line takes one, but for an answer to what was not asked: the disk would not be
// as it says.
func (w *walker) line(line string) {
	words := strings.Fields(line)
	if asked, is := answers[words[0]]; is {
		if w.under[words[1]] != asked {
			return
		}
		delete(w.under, words[1])
	}
	if words[0] == "ship-failed" && w.under[words[1]] == "seal" {
		delete(w.under, words[1]) // it says that the seal has ended
	}
	if words[0] == "restart" {
		clear(w.under)
		w.promoted = nil
	}
	w.out.Reset()
	w.script.line(line)
	for _, effect := range strings.Split(w.out.String(), "\n") {
		words := strings.Fields(effect)
		if len(words) < 2 || !slices.Contains([]string{"seal", "promote", "discard"}, words[0]) {
			continue
		}
		if w.under[words[1]] != "" {
			w.t.Fatalf("%q is begun while %q of the same slice is under way", effect, w.under[words[1]])
		}
		w.under[words[1]] = words[0]
		if words[0] == "promote" {
			if slices.Contains(w.promoted, words[1]) {
				w.t.Fatalf("%s is promoted twice", words[1])
			}
			w.promoted = append(w.promoted, words[1])
		}
	}
	for _, m := range w.state.marks {
		if ticket, err := w.adm.Enter([]byte("a:k"), at(w.now), 0); err == nil {
			w.adm.Leave(&ticket)
			if !m.Promoted && ticket.Token().Epoch != 0 {
				w.t.Fatalf("a write is admitted while the slice of %s waits for its promotion", m.Move)
			}
		}
	}
	delete(w.tickets, "w")
}
