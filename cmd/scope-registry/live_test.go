package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// look is a move in a phase since three seconds.
func look(phase string, phases int) (api.Move, time.Time) {
	now := time.UnixMilli(1_700_000_000_000)
	m := api.Move{ID: "m1", Prefix: "app:", From: "a", To: "b", Phase: phase, Stamps: make([]api.Stamp, phases)}
	names := []string{"copying", "quiescing", "shipped", "done"}
	for i := range m.Stamps {
		m.Stamps[i].Phase = names[i]
	}
	if phase != "done" {
		m.Waiting = &api.Waiting{For: "the operator", SinceMS: now.Add(-3200 * time.Millisecond).UnixMilli(),
			Deadlines: []api.Deadline{{AtMS: now.Add(597900 * time.Millisecond).UnixMilli(), What: "it is aborted"}}}
	}
	return m, now
}

func TestProgress(t *testing.T) {
	m, now := look("quiescing", 2)
	if got, want := progress(m, "", now), "m1 quiescing for 3s, 9m57s left: waiting for the operator"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := progress(m, "the ship command runs", now.Add(time.Hour)), "m1 quiescing for 1h0m3s, 0s left: the ship command runs"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := progress(api.Move{}, "", now); got != "" {
		t.Errorf("%q of no move", got)
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"abcd", 5, "abcd"}, {"abcde", 5, "ab…"}, {"ab cde", 6, "ab…"}, {"äöü", 7, "äöü"}, {"äöü", 6, "ä…"},
		{"日本語", 5, "日…"}, {"abc", 1, ""}, {"", 1, ""}, {"abc", 0, ""},
	} {
		got := fit(c.text, c.width)
		if got != c.want {
			t.Errorf("fit(%q, %d) is %q, want %q", c.text, c.width, got, c.want)
		}
		if c.width > 0 && cells(got) >= c.width {
			t.Errorf("fit(%q, %d) fills the line: %q", c.text, c.width, got)
		}
	}
}

func TestLiveLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := newTalk()
		c := &cli{err: out, width: func() int { return 20 }}
		began := time.Now()
		end := c.goLive(func(now time.Time) string { return "at " + whole(now.Sub(began)) + "\x1b[31m" })
		draw := func(d time.Duration) string {
			synctest.Wait()
			out.take()
			<-time.After(d)
			synctest.Wait()
			return out.take()
		}
		if got := draw(liveEvery); !strings.HasPrefix(got, "\rat 0s") || strings.Count(got, "\x1b") != strings.Count(got, "\x1b[K") {
			t.Errorf("drew %q", got)
		}
		synctest.Wait()
		out.take()
		c.remark("over it")
		if got := out.take(); got != "\r\x1b[Kover it\n" {
			t.Errorf("a remark was written as %q", got)
		}
		_, _ = c.err.Write([]byte("50%"))
		if got := draw(time.Second); got != "" {
			t.Errorf("drew %q over a line that has not ended", got)
		}
		_, _ = c.err.Write([]byte("100%\n"))
		if got := draw(time.Second); !strings.Contains(got, "\rat 2s") {
			t.Errorf("drew %q", got)
		}
		synctest.Wait()
		out.take()
		end()
		if got := out.take(); got != "\r\x1b[K" || c.err != out {
			t.Errorf("at the end %q", got)
		}
	})
}

func TestLiveLineIsLeftOut(t *testing.T) {
	for name, c := range map[string]*cli{
		"off a terminal": {width: func() int { return 0 }},
		"quiet":          {width: func() int { return 80 }, quiet: true},
	} {
		var out bytes.Buffer
		c.err = &out
		c.goLive(func(time.Time) string { return "text" })()
		if out.Len() > 0 || c.err != &out {
			t.Errorf("%s: wrote %q", name, out.String())
		}
	}
}

func TestTrackerPlain(t *testing.T) {
	var out bytes.Buffer
	c := &cli{err: &out, width: func() int { return 0 }}
	seen := func(ms ...api.Move) string {
		out.Reset()
		tr := c.track()
		defer tr.end()
		for _, m := range ms {
			tr.saw(m)
		}
		return out.String()
	}
	copying, _ := look("copying", 1)
	quiescing, _ := look("quiescing", 2)
	shipped, _ := look("shipped", 3)
	done, _ := look("done", 4)
	got := seen(copying, copying, shipped, quiescing, done)
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "m1 copying for ") || lines[1] != "m1 quiescing" ||
		!strings.HasPrefix(lines[2], "m1 shipped for ") || lines[3] != "m1 done" {
		t.Errorf("said\n%s", got)
	}
	if got := seen(done); got != "" {
		t.Errorf("a move that had ended was told as news: %s", got)
	}
	if got := seen(shipped); !strings.HasPrefix(got, "m1 shipped for ") || strings.Count(got, "\n") != 1 {
		t.Errorf("at first look said\n%s", got)
	}
}
