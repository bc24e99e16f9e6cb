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

// rest reads a stream to its end: "type index", then the error.
func (s *stream) rest() (string, error) {
	var got []string
	for {
		item, err := s.next()
		if err != nil {
			return strings.Join(got, " "), err
		}
		got = append(got, fmt.Sprintf("%s %d", item.Type, item.Index))
	}
}

// A stream is one connection: it ends as the server ended it, and the next one
// is of another server.
func TestStreamEndsAsItsServerSays(t *testing.T) {
	cl := servers(t, lines(change(5), failure(api.Compacted)), refuse(api.NoLeader), lines(heartbeat(6)), refuse(api.Limit))
	c := cl.client()
	for _, want := range []struct {
		shown string
		code  api.Code
		at    uint32
	}{
		{"change 5", api.Compacted, 0}, {"heartbeat 6", api.Unavailable, 2}, {"change 5", api.Compacted, 0},
	} {
		s, err := c.openStream(bounded(t), 4, silence)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.rest(); got != want.shown || !is(err, want.code) || s.at != want.at {
			t.Errorf("server %d: %s, %v, want %+v", s.at, got, err, want)
		}
		s.close()
		s.close()
	}
}

func TestStreamIsNotBegun(t *testing.T) {
	for want, answers := range map[api.Code][]http.HandlerFunc{
		api.Compacted:   {refuse(api.NoLeader), refuse(api.Compacted), lines(change(9))}, // told, not passed over
		api.NoLeader:    {full, refuse(api.NoLeader)},
		api.Unavailable: {refuse(api.NoLeader), cut},
		api.Invalid:     {},
	} {
		if s, err := servers(t, answers...).client().openStream(t.Context(), 4, silence); !is(err, want) {
			t.Errorf("%v, %v, want %s", s, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := servers(t, lines(change(9))).client().openStream(ctx, 4, silence); !is(err, api.Unavailable) {
		t.Errorf("%v, %v", s, err)
	}
}

// quietNetwork has servers that send an item at once, another a while later, and
// then, in pieces with such a pause before each, a last one.
func quietNetwork(pause time.Duration) *Client {
	return New([]string{"a"}, WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
		return streaming(r, func(ctx context.Context, w io.Writer) {
			_ = json.NewEncoder(w).Encode(change(1))
			if !sleep(ctx, pause) {
				return
			}
			_ = json.NewEncoder(w).Encode(change(2))
			last, _ := json.Marshal(change(3))
			for _, b := range append(last, '\n') {
				if !sleep(ctx, pause) {
					return
				}
				_, _ = w.Write([]byte{b})
			}
			<-ctx.Done()
		}), nil
	})}))
}

// A stream that is silent ends; one that is slow, or whose user is, does not.
func TestStreamQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const quiet = 4 * time.Second
		s, err := quietNetwork(quiet-time.Second).openStream(t.Context(), 1, quiet)
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * quiet)
		if item, err := s.next(); err != nil || item.Index != 1 {
			t.Fatalf("%+v, %v", item, err)
		}
		<-time.After(10 * quiet)
		start := time.Now()
		if got, err := s.rest(); got != "change 2 change 3" || !is(err, api.Unavailable) || !strings.Contains(err.Error(), "nothing came for 4s") {
			t.Errorf("%s, %v", got, err)
		}
		if took := time.Since(start); took < 10*quiet { // from the beginning of the last item, the pieces of which come all the time
			t.Errorf("after %v", took)
		}
		s.close()

		s, err = quietNetwork(quiet+time.Second).openStream(t.Context(), 1, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		start = time.Now()
		if got, err := s.rest(); got != "change 1" || !is(err, api.Unavailable) || time.Since(start) != quiet {
			t.Errorf("%s, %v after %v", got, err, time.Since(start))
		}
	})
}

// Neither the context nor a close leaves next waiting.
func TestStreamIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, byClose := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			s, err := quietNetwork(time.Hour).openStream(ctx, 1, 4*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			end := cancel
			if byClose {
				end = s.close
			}
			start := time.Now()
			time.AfterFunc(time.Second, end)
			if got, err := s.rest(); got != "change 1" || !is(err, api.Unavailable) || time.Since(start) != time.Second {
				t.Errorf("%s, %v after %v", got, err, time.Since(start))
			}
			s.close()
			cancel()
		}
	})
}
