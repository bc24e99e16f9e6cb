package client

import (
	"context"
	"encoding/json"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// goesTo is where Follow goes with a key.
func goesTo(t *testing.T, m *Mirror, key string) (addr string) {
	t.Helper()
	if err := m.Follow(t.Context(), []byte(key), func(_ context.Context, at string) error { addr = at; return nil }); err != nil {
		t.Error(err)
	}
	return addr
}

// A mirror that begins at a server which is behind does not show less than its client has been told of: a scope that was
// declared through another server a moment before has an owner.
func TestMirrorBeginsWithWhatIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		told        uint64
		catchesUp   bool // server a
		asked       string
		index       uint64
		least, most time.Duration
	}{
		"nothing is known":      {told: 0, asked: "a0 ", index: 5},
		"it has that":           {told: 5, asked: "a0 ", index: 5},
		"it catches up":         {told: 7, catchesUp: true, asked: "a0 ", index: 7, least: 50 * time.Millisecond, most: 50 * time.Millisecond},
		"it stands still":       {told: 7, asked: "a0 b5 ", index: 7, least: behindFor, most: behindFor + 3*time.Second},
		"nobody has such index": {told: 1000, asked: "a0 b5 ", index: 7, least: 2 * behindFor, most: 2*behindFor + 4*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := ""
				began := time.Now()
				m, err := virtualAfter(t, c.told, []string{"a", "b"}, func(ctx context.Context, host, from string, w io.Writer) {
					asked += host + from + " "
					if from == "0" {
						_ = json.NewEncoder(w).Encode(whole(1, 5, nodeAt("n", "n:1")))
					}
					if host == "b" || c.catchesUp && sleep(ctx, 50*time.Millisecond) {
						_ = json.NewEncoder(w).Encode(changed(1, 7, owned("p:", "n", 7)))
						beats(ctx, w, 7)
					}
					beats(ctx, w, 5)
				})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				if took := time.Since(began); took < c.least || took > c.most {
					t.Errorf("it took %v, want %v to %v", took, c.least, c.most)
				}
				if m.View().Index() != c.index || asked != c.asked {
					t.Errorf("it begins at index %d, asked %s; want %d, %s", m.View().Index(), asked, c.index, c.asked)
				}
				if c.index == 7 {
					if at := goesTo(t, m, "p:1"); at != "n:1" {
						t.Errorf("p:1 is at %q", at)
					}
				}
			})
		})
	}
}

// While a stream begins anew with a snapshot that takes its time the view stays.
func TestMirrorKeepsItsViewDuringASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := 0
		m, err := virtual(t, []string{"a"}, func(ctx context.Context, _, from string, w io.Writer) {
			out := json.NewEncoder(w)
			switch streams++; streams {
			case 1:
				_ = out.Encode(whole(1, 5, nodeAt("n", "n:1"), owned("p:", "n", 3)))
				_ = out.Encode(in(1, "t", api.WatchItem{Type: "of a later version", Index: 6})) // has a snapshot asked for
			case 2:
				if from != "0" {
					t.Errorf("the second stream begins after %s", from)
				}
				_ = out.Encode(part(whole(1, 9, nodeAt("n", "n:2"))))
				sleep(ctx, 3*time.Second)
				_ = out.Encode(in(1, "t", api.WatchItem{Type: "snapshot", Index: 9, Changes: []api.Change{owned("p:", "n", 3)}}))
				beats(ctx, w, 9)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for m.View().Index() < 9 {
			if at := goesTo(t, m, "p:1"); at != "n:1" {
				t.Fatalf("p:1 is at %q, of the view of index %d", at, m.View().Index())
			}
			<-time.After(10 * time.Millisecond)
		}
		if at := goesTo(t, m, "p:1"); at != "n:2" || streams != 2 {
			t.Errorf("after %d streams p:1 is at %q", streams, at)
		}
	})
}
