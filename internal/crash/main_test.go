package crash

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/process"
)

// binary is the server all tests run, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	code, err := built(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// built builds the server, runs the tests and removes the server again.
func built(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "scope-registry-bin-*")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if binary, err = process.Build(context.Background(), filepath.Join("..", ".."), dir, "./cmd/scope-registry"); err != nil {
		return 1, err
	}
	code = m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			return 1, fmt.Errorf("goroutines are left: %w", err)
		}
	}
	return code, nil
}

// opened is a cluster that is ready. The test fails if it does not close.
func opened(ctx context.Context, t *testing.T) *Cluster {
	t.Helper()
	c, err := Open(Config{Bin: binary})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, id := range c.IDs() {
				t.Logf("log of %s:\n%s", id, c.Logs(id))
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// bounded is a context that ends after d.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// nodes declares data nodes on a server.
func nodes(ctx context.Context, t *testing.T, c *Cluster, ids ...string) {
	t.Helper()
	for i, id := range ids {
		ask := Ask{Method: http.MethodPut, Path: "/v1/nodes/" + id, Body: api.Node{ID: id, Addr: fmt.Sprintf("10.0.0.%d:6004", i+1)}}
		if _, err := c.Do(ctx, c.IDs()[i%Size], ask, nil); err != nil {
			t.Fatalf("node %s: %v", id, err)
		}
	}
}

// declare declares prefix with its writer on the server id.
func declare(ctx context.Context, c *Cluster, id, requestID, prefix, writer string) (api.Applied, error) {
	var out api.Applied
	_, err := c.Do(ctx, id, Ask{Method: http.MethodPut, Path: "/v1/scope", Query: url.Values{"prefix": {prefix}},
		RequestID: requestID, Body: api.Declare{Writer: writer}}, &out)
	return out, err
}
