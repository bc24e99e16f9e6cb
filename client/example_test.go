package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/scope-registry/scope-registry/client"
)

// A node that keeps its data in a database which all nodes share: what moves is the
// right to write. examples/store moves records, too.
func ExampleStartSession() {
	c := client.New([]string{"http://127.0.0.1:7481", "http://127.0.0.1:7491", "http://127.0.0.1:7501"})
	defer c.Close()
	s, err := client.StartSession(c, client.SessionConfig{Node: "n1", DataDir: filepath.Join(os.TempDir(), "n1-session"), Store: client.NoData{}})
	if err != nil {
		fmt.Println(err) // another process of the node runs
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := c.SetNode(ctx, client.Node{ID: "n1", Addr: "127.0.0.1:6101"}); err != nil {
		fmt.Println(err)
		return
	}
	if err := s.WaitReady(ctx); err != nil {
		fmt.Println(err) // it says what the session waits for
		return
	}
	err = s.Guard().Write(ctx, []byte("app:invoices:next"), func(context.Context, client.Token) error {
		return nil // execute it, and return when it is durable
	})
	fmt.Println("acknowledged:", err == nil)
	if err := s.Close(ctx); err != nil {
		fmt.Println(err)
	}
}

// What a node answers over HTTP.
func ExampleGuard_Write() {
	var guard *client.Guard // of the session
	var put func(key, value []byte) error
	http.HandleFunc("PUT /v1/value", func(w http.ResponseWriter, r *http.Request) {
		key := []byte(r.URL.Query().Get("key"))
		value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20)) // before the guard: a slow client must not hold a move back
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		err = guard.Write(r.Context(), key, func(context.Context, client.Token) error { return put(key, value) })
		var e *client.Error
		switch {
		case err == nil:
			w.WriteHeader(http.StatusNoContent)
		case errors.As(err, &e):
			client.WriteError(w, err) // MISDIRECTED with the owner's address, QUIESCED, …
		default:
			http.Error(w, "the store failed", http.StatusInternalServerError)
		}
	})
}

// A client of such nodes, which goes after the owner.
func ExampleMirror_Follow() {
	c := client.New([]string{"http://127.0.0.1:7481"})
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	m, err := c.NewMirror(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	key := "app:cart:7"
	err = m.Follow(ctx, []byte(key), func(ctx context.Context, addr string) error {
		target := "http://" + addr + "/v1/value?key=" + url.QueryEscape(key)
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, bytes.NewReader([]byte("two apples")))
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err // as it is: of one that never left the next may be tried
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return err
		}
		return client.ErrorFrom(resp, body)
	})
	fmt.Println("acknowledged:", err == nil)
}
