package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

func download(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set(api.HeaderIndex, "42")
	fmt.Fprint(w, "all of it")
}

func TestBackup(t *testing.T) {
	cl := servers(t, refuse(api.NoLeader), full, download)
	var got bytes.Buffer
	if index, err := cl.client().Backup(t.Context(), &got); err != nil || index != 42 || got.String() != "all of it" {
		t.Errorf("%d, %v, %q", index, err, &got)
	}
	if n := len(cl.requests()); n != 3 {
		t.Errorf("%d requests", n)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestBackupFailures(t *testing.T) {
	half := func(w http.ResponseWriter, r *http.Request) {
		download(w, r)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, c := range []struct {
		answer http.HandlerFunc
		to     io.Writer
		code   api.Code
		said   string
	}{
		{half, io.Discard, api.Unavailable, "no backup"}, // and no second server is asked: some of it is written
		{download, broken{}, api.Internal, "disk full"},
		{func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }, io.Discard, api.Internal, "without its index"},
		{refuse(api.Forbidden), io.Discard, api.Forbidden, ""},
	} {
		cl := servers(t, c.answer, download)
		index, err := cl.client().Backup(t.Context(), c.to)
		if !is(err, c.code) || !strings.Contains(err.Error(), c.said) || index != 0 || len(cl.requests()) != 1 {
			t.Errorf("%d, %v after %d requests, want %s", index, err, len(cl.requests()), c.code)
		}
	}
	if _, err := New(nil).Backup(t.Context(), io.Discard); !is(err, api.Invalid) {
		t.Errorf("%v", err)
	}
}

// pieces feeds n pieces, one after each pause.
func pieces(n int, pause time.Duration) *Client {
	return New([]string{"a"}, WithTimeout(time.Second), WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
		return streaming(r, func(ctx context.Context, w io.Writer) {
			for range n {
				if !sleep(ctx, pause) {
					return
				}
				_, _ = io.WriteString(w, "piece ")
			}
		}), nil
	})}))
}

// slow is a disk that takes its time.
type slow struct{ bytes.Buffer }

func (s *slow) Write(p []byte) (int, error) {
	sleep(context.Background(), 2*silence)
	return s.Buffer.Write(p)
}

// A download lasts as long as something comes, whatever the timeout of calls.
func TestBackupTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got bytes.Buffer
		start := time.Now()
		if _, err := pieces(30, silence-time.Second).Backup(t.Context(), &got); err != nil || strings.Count(got.String(), "piece") != 30 {
			t.Errorf("%v after %v, %q", err, time.Since(start), &got)
		}
		var late slow
		if _, err := pieces(3, time.Second).Backup(t.Context(), &late); err != nil || strings.Count(late.String(), "piece") != 3 {
			t.Errorf("%v, %q", err, late.String())
		}
		got.Reset()
		start = time.Now()
		_, err := pieces(2, silence+time.Second).Backup(t.Context(), &got)
		if took := time.Since(start); !is(err, api.Unavailable) || !strings.Contains(err.Error(), "nothing came") || took != silence {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// A server that does not even begin is left after the timeout of calls.
func TestBackupFindsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New([]string{"a", "b"}, WithTimeout(4*time.Second), WithHTTPClient(&http.Client{Transport: network(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}))
		start := time.Now()
		if _, err := c.Backup(t.Context(), io.Discard); !is(err, api.Timeout) || time.Since(start) != 4*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func restoredAs(incarnation uint64) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.HeaderIndex, "43")
		fmt.Fprintf(w, `{"index":43,"incarnation":%d}`, incarnation)
	}
}

// One that broke off is tried again, whole and with the same tag.
func TestRestore(t *testing.T) {
	broke := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	cl := servers(t, refuse(api.NoLeader), broke, restoredAs(7))
	out, err := cl.client().Restore(t.Context(), strings.NewReader("all of it"), api.RestoreOptions{Incarnation: 7, AllNodesKnown: true, FromCluster: "c1"})
	if err != nil || out.Incarnation != 7 || out.Index != 43 {
		t.Fatalf("%+v, %v", out, err)
	}
	tags := map[string]bool{}
	for _, r := range cl.requests() {
		target, err := url.Parse(r.target)
		if err != nil {
			t.Fatal(err)
		}
		q := target.Query()
		tags[q.Get("incarnation_tag")] = true
		if q.Get("incarnation") != "7" || q.Get("all_nodes_known") != "true" || q.Get("from_cluster") != "c1" || r.body != "all of it" {
			t.Errorf("asked for %v with %q", q, r.body)
		}
	}
	if len(tags) != 1 || tags[""] || len(cl.requests()) != 3 {
		t.Errorf("%d requests with the tags %v", len(cl.requests()), tags)
	}
}

func TestRestoreFailures(t *testing.T) {
	for code, answer := range map[api.Code]http.HandlerFunc{
		api.StaleEpoch:     refuse(api.StaleEpoch),
		api.Corrupt:        refuse(api.Corrupt),
		api.Internal:       restoredAs(0),
		api.OutcomeUnknown: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		api.NoLeader:       refuse(api.NoLeader),
	} {
		cl := servers(t, answer)
		if _, err := cl.client().Restore(t.Context(), strings.NewReader("all of it"), api.RestoreOptions{Incarnation: 7}); !is(err, code) {
			t.Errorf("%v, want %s", err, code)
		}
	}
	if _, err := New(nil).Restore(t.Context(), strings.NewReader(""), api.RestoreOptions{}); !is(err, api.Invalid) {
		t.Errorf("%v", err)
	}
}
