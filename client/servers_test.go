package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/scope-registry/scope-registry/internal/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asked is one request as a server got it.
type asked struct {
	server         int
	method, target string
	id, body       string
}

// cluster is some servers that answer as a test says.
type cluster struct {
	t         *testing.T
	endpoints []string
	mu        sync.Mutex // guards asked
	asked     []asked
}

// servers starts one server for each answer.
func servers(t *testing.T, answers ...http.HandlerFunc) *cluster {
	cl := &cluster{t: t}
	for i, answer := range answers {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body) // a request of ours has one that can be read
			cl.mu.Lock()
			cl.asked = append(cl.asked, asked{i, r.Method, r.URL.RequestURI(), r.Header.Get(api.HeaderRequestID), string(body)})
			cl.mu.Unlock()
			answer(w, r)
		}))
		t.Cleanup(s.Close)
		cl.endpoints = append(cl.endpoints, s.URL)
	}
	return cl
}

// client returns a client of the servers, in their order.
func (cl *cluster) client(opts ...Option) *Client {
	c := New(cl.endpoints, opts...)
	cl.t.Cleanup(c.Close)
	return c
}

// requests are those that were made, reads of an index for a request id left out.
func (cl *cluster) requests() []asked {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	var out []asked
	for _, a := range cl.asked {
		if a.target != "/v1/moves?limit=1" {
			out = append(out, a)
		}
	}
	return out
}

// ok answers with a body and the index 7.
func ok(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.HeaderIndex, "7")
		_ = json.NewEncoder(w).Encode(v)
	}
}

// refuse answers with a problem.
func refuse(code api.Code) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.HeaderIndex, "7")
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(code.HTTPStatus())
		_ = json.NewEncoder(w).Encode(api.Error{Code: code, Detail: "d " + string(code)})
	}
}

// full is a server that has no room for a connection, which no state answers.
func full(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusTooManyRequests)
	fmt.Fprint(w, `{"code":"LIMIT","detail":"4096 connections"}`)
}

// cut takes the request and breaks the connection.
func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// stranger is no registry.
func stranger(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }

// when answers mutations, or watches and backups; reads of the index succeed.
func when(answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() == "/v1/moves?limit=1" {
			ok(Nodes{})(w, r)
			return
		}
		answer(w, r)
	}
}

// inTurn answers the first request with the first answer, and so on; the last
// one stays.
func inTurn(answers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex // guards answers
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		answer := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		mu.Unlock()
		answer(w, r)
	}
}

// network is a transport that answers as a function says, without sockets, so
// that it can be used where time is virtual.
type network func(*http.Request) (*http.Response, error)

func (n network) RoundTrip(r *http.Request) (*http.Response, error) { return n(r) }

// streaming is a good reply whose body feed writes, until the request ends.
func streaming(r *http.Request, feed func(ctx context.Context, w io.Writer)) *http.Response {
	out, in := io.Pipe()
	stop := context.AfterFunc(r.Context(), func() { _ = in.CloseWithError(r.Context().Err()) })
	go func() {
		feed(r.Context(), in)
		_ = in.Close()
		stop()
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{api.HeaderIndex: {"7"}}, Body: out, Request: r}
}
