package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// lines answers a watch with items and then ends it, in the middle of nothing.
func lines(items ...api.WatchItem) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, item := range items {
			_ = json.NewEncoder(w).Encode(item)
		}
		_ = http.NewResponseController(w).Flush()
	}
}

func snap(index uint64, more bool) api.WatchItem {
	return api.WatchItem{Type: "snapshot", Index: index, More: more}
}

func change(index uint64) api.WatchItem    { return api.WatchItem{Type: "change", Index: index} }
func heartbeat(index uint64) api.WatchItem { return api.WatchItem{Type: "heartbeat", Index: index} }

func failure(code api.Code) api.WatchItem {
	return api.WatchItem{Type: "error", Error: &api.Error{Code: code, Detail: "d"}}
}

// follow reads n items of a watch: "type index", "+" for more, and "again" before
// one that begins anew.
func follow(t *testing.T, w *Watch, n int) string {
	t.Helper()
	var got []string
	for range n {
		item, err := w.Next()
		if err != nil {
			t.Fatalf("%v after %v", err, got)
		}
		if w.Resynced() {
			got = append(got, "again:")
		}
		got = append(got, fmt.Sprintf("%s %d%s", item.Type, item.Index, map[bool]string{true: "+"}[item.More]))
	}
	return strings.Join(got, " ")
}

// bounded ends a watch that nobody answers as it should.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestWatchAcrossEndpoints(t *testing.T) {
	for _, c := range []struct {
		name    string
		from    uint64
		answers []http.HandlerFunc
		want    string // what is shown
		asked   string // server and from of each request
	}{
		{"goes on where it broke off, elsewhere", 0,
			[]http.HandlerFunc{lines(snap(5, false), change(6), heartbeat(8)), lines(change(9), change(10))},
			"snapshot 5 change 6 heartbeat 8 change 9 change 10", "0:0 1:8"},
		{"passes over servers that cannot", 4,
			[]http.HandlerFunc{refuse(api.NoLeader), full, refuse(api.Limit), cut, lines(change(5))},
			"change 5", "0:4 1:4 2:4 3:4 4:4"},
		{"comes back to one that can again", 4,
			[]http.HandlerFunc{inTurn(refuse(api.Unavailable), lines(change(5)))},
			"change 5", "0:4 0:4"},
		{"takes a snapshot when its index is no longer kept", 3,
			[]http.HandlerFunc{inTurn(refuse(api.Compacted), lines(snap(9, false), change(10)))},
			"again: snapshot 9 change 10", "0:3 0:0"},
		{"also when that is found out on the way", 3,
			[]http.HandlerFunc{lines(change(4), failure(api.Compacted)), lines(snap(9, false))},
			"change 4 again: snapshot 9", "0:3 1:0"},
		{"resumes when it was too slow, if it still can", 3,
			[]http.HandlerFunc{lines(change(4), failure(api.Slow)), inTurn(refuse(api.Compacted), lines(snap(9, false)))},
			"change 4 again: snapshot 9", "0:3 1:4 1:0"},
		{"begins a snapshot anew that broke off half way", 0,
			[]http.HandlerFunc{lines(snap(5, true), snap(5, true)), lines(snap(6, true), snap(6, false), change(7))},
			"snapshot 5+ snapshot 5+ again: snapshot 6+ snapshot 6 change 7", "0:0 1:0"},
		{"takes no snapshot from before a part of one that it has shown", 0,
			[]http.HandlerFunc{lines(snap(5, true)), lines(snap(4, false)), lines(snap(5, false))},
			"snapshot 5+ again: snapshot 5", "0:0 1:0 2:0"},
		{"nor heartbeats and changes from before", 6,
			[]http.HandlerFunc{lines(heartbeat(5)), lines(change(4)), lines(change(7))},
			"change 7", "0:6 1:6 2:6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := servers(t, c.answers...)
			w := cl.client().Watch(bounded(t), c.from)
			defer w.Close()
			items := strings.Count(strings.ReplaceAll(c.want, "again: ", ""), " ")/2 + 1
			if got := follow(t, w, items); got != c.want {
				t.Errorf("shown %s\n want %s", got, c.want)
			}
			var asked []string
			for _, a := range cl.requests() {
				asked = append(asked, fmt.Sprintf("%d:%s", a.server, strings.TrimPrefix(a.target, "/v1/watch?from=")))
			}
			if got := strings.Join(asked, " "); got != c.asked {
				t.Errorf("asked %s, want %s", got, c.asked)
			}
		})
	}
}

// Heartbeats and snapshots of a server that has fallen behind do not take the
// watch back: it goes to the others until one has what was shown.
func TestWatchDoesNotGoBack(t *testing.T) {
	behind := inTurn(lines(snap(5, false), change(6), failure(api.Compacted)), lines(snap(3, false)))
	ahead := inTurn(lines(snap(4, false)), lines(snap(8, false), change(9)))
	cl := servers(t, behind, ahead)
	w := cl.client().Watch(bounded(t), 0)
	defer w.Close()
	if got := follow(t, w, 4); got != "snapshot 5 change 6 again: snapshot 8 change 9" {
		t.Error(got)
	}
	var order []int
	for _, a := range cl.requests() {
		order = append(order, a.server)
	}
	if fmt.Sprint(order) != "[0 1 0 1]" {
		t.Errorf("asked %v", order)
	}
}

// Of two incarnations the later one counts, whatever its index; a server that has
// not met it yet is passed over.
func TestWatchMeetsALaterIncarnation(t *testing.T) {
	of := func(incarnation uint64, item api.WatchItem) api.WatchItem {
		item.Incarnation = incarnation
		return item
	}
	for name, c := range map[string]struct {
		answers []http.HandlerFunc
		want    string
		asked   string
	}{
		"in a snapshot": {[]http.HandlerFunc{
			lines(of(1, snap(50, false)), failure(api.Compacted)), lines(of(2, snap(9, false)), of(2, change(10)))},
			"snapshot 50 again: snapshot 9 change 10", "0:0 1:0"},
		"in a heartbeat, which is not shown": {[]http.HandlerFunc{
			lines(of(1, snap(50, false))), inTurn(lines(of(2, heartbeat(50))), lines(of(2, snap(9, false)))), lines(of(1, snap(60, false)))},
			"snapshot 50 again: snapshot 9", "0:0 1:50 2:0 0:0 1:0"},
		"half way through a snapshot": {[]http.HandlerFunc{
			lines(of(1, snap(50, true))), lines(of(2, snap(9, false)))},
			"snapshot 50+ again: snapshot 9", "0:0 1:0"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := servers(t, c.answers...)
			w := cl.client().Watch(bounded(t), 0)
			defer w.Close()
			if got := follow(t, w, strings.Count(strings.ReplaceAll(c.want, "again: ", ""), " ")/2+1); got != c.want {
				t.Errorf("shown %s\n want %s", got, c.want)
			}
			var asked []string
			for _, a := range cl.requests() {
				asked = append(asked, fmt.Sprintf("%d:%s", a.server, strings.TrimPrefix(a.target, "/v1/watch?from=")))
			}
			if got := strings.Join(asked, " "); got != c.asked {
				t.Errorf("asked %s, want %s", got, c.asked)
			}
		})
	}
}

// Who ends a watch, as its server stands still, and begins another one gets it
// from another server, though the first one answers as well as ever.
func TestWatchBeginsElsewhere(t *testing.T) {
	cl := servers(t, lines(heartbeat(5)), lines(change(6)), lines(change(7)))
	c := cl.client()
	for _, want := range []string{"heartbeat 5", "change 6", "change 7", "heartbeat 5"} {
		w := c.Watch(bounded(t), 4)
		if got := follow(t, w, 1); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		w.Close()
	}
}

func TestWatchEnds(t *testing.T) {
	for want, answer := range map[api.Code]http.HandlerFunc{
		api.Invalid:  refuse(api.Invalid),
		api.Corrupt:  lines(failure(api.Corrupt)),
		api.Internal: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html>") },
	} {
		w := servers(t, answer).client().Watch(t.Context(), 0)
		if _, err := w.Next(); !is(err, want) {
			t.Errorf("%v, want %s", err, want)
		}
		w.Close()
	}
	w := New(nil).Watch(t.Context(), 0)
	if _, err := w.Next(); !is(err, api.Invalid) {
		t.Errorf("%v", err)
	}
	w.Close()
	if _, err := w.Next(); !is(err, api.Timeout) {
		t.Errorf("%v", err)
	}
}

// A line may be long, but not endless.
func TestWatchLineLength(t *testing.T) {
	long := snap(5, false)
	long.Changes = []api.Change{{Cause: strings.Repeat("x", 1<<20)}}
	w := servers(t, lines(long)).client().Watch(t.Context(), 0)
	defer w.Close()
	if item, err := w.Next(); err != nil || len(item.Changes[0].Cause) != 1<<20 {
		t.Errorf("%v", err)
	}
	over := servers(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxLine+128<<10)) }).client().Watch(t.Context(), 0)
	defer over.Close()
	if _, err := over.read(); !is(err, api.Unavailable) || !strings.Contains(err.Error(), fmt.Sprint(maxLine)) {
		t.Errorf("%v", err)
	}
}

// A stream on which not even heartbeats come is given up. How long its user
// takes between two items does not matter.
func TestWatchSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := ""
		c := New([]string{"a", "b"}, WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
			hosts += r.URL.Host
			return streaming(r, func(ctx context.Context, w io.Writer) {
				for i := range uint64(2) {
					_ = json.NewEncoder(w).Encode(change(uint64(10*len(hosts)) + i))
				}
				<-ctx.Done()
			}), nil
		})}))
		w := c.Watch(t.Context(), 1)
		start := time.Now()
		if got := follow(t, w, 1); got != "change 10" {
			t.Error(got)
		}
		<-time.After(10 * silence)
		if got := follow(t, w, 1); got != "change 11" || hosts != "a" {
			t.Errorf("%s from %s", got, hosts)
		}
		if got := follow(t, w, 2); got != "change 20 change 21" || hosts != "ab" {
			t.Errorf("%s from %s", got, hosts)
		}
		if took := time.Since(start) - 10*silence; took < silence || took > silence+maxPause {
			t.Errorf("the silent server was left after %v", took)
		}
		w.Close()
	})
}
