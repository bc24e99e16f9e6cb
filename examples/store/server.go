package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

const (
	// maxValue bounds a value: what one request holds in memory, and for how long its transaction has others wait.
	maxValue = 1 << 20
	// maxBody and maxKeys bound what one request puts in one transaction, for the same reason.
	maxBody = 4 << 20
	maxKeys = 1000
	// maxWriting is how many writes may be under way, each with its body in memory. More of them wait.
	maxWriting = 64
	// arriving is when to try a key again whose slice is being put among the values: that takes a second for 20 MB.
	arriving = 100 * time.Millisecond
)

// Guard is what the server needs of a [client.Guard].
type Guard interface {
	Write(ctx context.Context, key []byte, fn func(context.Context, client.Token) error) error
	WriteKeys(ctx context.Context, keys [][]byte, fn func(context.Context, client.Token) error) error
}

// Server answers over HTTP.
type Server struct {
	Node   string
	Disk   *Disk
	Guard  Guard
	Owner  func(key []byte) (node scope.NodeID, addr string, known bool) // as the session sees it; no node owns what is in no scope
	Status func() (session any, ready bool)
	Slices http.Handler // takes the batches of moves
	Log    *slog.Logger

	written, read, refused atomic.Uint64 // requests
	writing                chan struct{} // holds one for each write under way
}

// Handler returns what answers all requests.
func (s *Server) Handler() http.Handler {
	s.writing = make(chan struct{}, maxWriting)
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/value":    s.get,
		"PUT /v1/value":    s.put,
		"DELETE /v1/value": s.delete,
		"POST /v1/values":  s.putMany,
		"GET /v1/dump":     s.dump,
		"GET /v1/status":   s.status,
		"GET /healthz":     func(w http.ResponseWriter, _ *http.Request) error { return writeJSON(w, "ok") },
		"GET /readyz":      s.readyz,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := answer(w, r); err != nil {
				s.refuse(w, r, err)
			}
		})
	}
	mux.HandleFunc(client.SlicePath, func(w http.ResponseWriter, r *http.Request) {
		// To verify a large slice takes longer than any other request may.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		s.Slices.ServeHTTP(w, r)
	})
	return mux
}

// written answers a write. Began and Ended are this host's clock in nanoseconds since 1970, taken when the guard had
// admitted the write, and when it was on disk.
type written struct {
	Node        string `json:"node"`
	Epoch       uint64 `json:"epoch"`
	Incarnation uint64 `json:"incarnation"`
	Began       int64  `json:"began_ns"`
	Ended       int64  `json:"ended_ns"`
}

func (s *Server) put(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "key", "expires")
	if err != nil {
		return err
	}
	c := Change{}
	if c.Key, err = parseKey(q.Get("key")); err != nil {
		return err
	}
	if c.Expires, err = parseExpires(q.Get("expires")); err != nil {
		return err
	}
	return s.write(w, r, maxValue, func(body []byte) ([]Change, error) {
		c.Value = body
		return []Change{c}, nil
	})
}

func (s *Server) delete(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "key")
	if err != nil {
		return err
	}
	key, err := parseKey(q.Get("key"))
	if err != nil {
		return err
	}
	return s.write(w, r, 0, func([]byte) ([]Change, error) { return []Change{{Key: key, Delete: true}}, nil })
}

// putMany takes [{"key":"…","value":"…"}], both in the text form for bytes. All of it is written, or nothing.
func (s *Server) putMany(w http.ResponseWriter, r *http.Request) error {
	return s.write(w, r, maxBody, func(body []byte) ([]Change, error) {
		var items []struct {
			Key     string `json:"key"`
			Value   string `json:"value"`
			Expires int64  `json:"expires"`
		}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&items); err != nil || !utf8.Valid(body) || dec.More() {
			return nil, invalid(`the body is not a JSON array like [{"key":"a","value":"1"}] in UTF-8 (%v)`, err)
		}
		if len(items) == 0 || len(items) > maxKeys {
			return nil, invalid("the body has %d keys; give 1 to %d", len(items), maxKeys)
		}
		changes := make([]Change, len(items))
		for i, item := range items {
			key, err := parseKey(item.Key)
			if err != nil {
				return nil, err
			}
			value, err := scope.ParseBytes(item.Value)
			if err != nil {
				return nil, invalid("the value of %q: %v", item.Key, err)
			}
			if item.Expires < 0 {
				return nil, invalid("expires %d of %q is negative; give milliseconds since 1970", item.Expires, item.Key)
			}
			changes[i] = Change{Key: key, Value: []byte(value), Expires: item.Expires}
		}
		return changes, nil
	})
}

// write reads the body, and then writes what parse makes of it under the guard. That order matters: while a write is
// admitted its scope cannot move, and a client may send slowly.
func (s *Server) write(w http.ResponseWriter, r *http.Request, limit int64, parse func(body []byte) ([]Change, error)) error {
	select {
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	case <-r.Context().Done():
		return r.Context().Err()
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return &client.Error{Code: "TOO_LARGE", Detail: fmt.Sprintf("the body has more than the %d bytes that are taken here", limit)}
	} else if err != nil {
		return invalid("the body did not arrive: %v", err)
	}
	changes, err := parse(body)
	if err != nil {
		return err
	}
	out := written{Node: s.Node}
	// The guarded function does not look at the context: a write that the disk has may not be given up.
	store := func(_ context.Context, token client.Token) error {
		out.Epoch, out.Incarnation, out.Began = token.Epoch, token.Incarnation, time.Now().UnixNano()
		err := s.Disk.Write(token, changes)
		out.Ended = time.Now().UnixNano()
		return err
	}
	if len(changes) == 1 {
		err = s.Guard.Write(r.Context(), changes[0].Key, store)
	} else {
		keys := make([][]byte, len(changes))
		for i, c := range changes {
			keys[i] = c.Key
		}
		err = s.Guard.WriteKeys(r.Context(), keys, store)
	}
	if err != nil {
		return err
	}
	s.written.Add(1)
	return writeJSON(w, out)
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "key")
	if err != nil {
		return err
	}
	key, err := parseKey(q.Get("key"))
	if err != nil {
		return err
	}
	if err := s.readable(key); err != nil {
		return err
	}
	e, found, err := s.Disk.Get(key, time.Now())
	if err != nil {
		return err
	}
	if !found {
		return &client.Error{Code: "NOT_FOUND", Detail: fmt.Sprintf("%s has no value for %q", s.Node, scope.BytesText(string(key)))}
	}
	s.read.Add(1)
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Store-Node", s.Node)
	h.Set("X-Store-Epoch", strconv.FormatUint(e.Token.Epoch, 10))
	h.Set("X-Store-Incarnation", strconv.FormatUint(e.Token.Incarnation, 10))
	if e.Expires != 0 {
		h.Set("X-Store-Expires", strconv.FormatInt(e.Expires, 10))
	}
	_, _ = w.Write(e.Value)
	return nil
}

// readable says why a key cannot be read here, or nil. Reads go to the owner, while its scope moves too. They ask nobody:
// an owner that was replaced and has not heard of it answers from what it has. Where that is not enough, write.
func (s *Server) readable(key []byte) error {
	owner, addr, known := s.Owner(key)
	switch {
	case !known:
		return &client.Error{Code: "UNAVAILABLE", Detail: fmt.Sprintf("%s has not heard from the registry yet; try again soon", s.Node)}
	case owner != "" && string(owner) != s.Node:
		return &client.Error{Code: "MISDIRECTED", Detail: "owner is " + addr, Owner: string(owner), Addr: addr}
	case s.Disk.Awaits(key):
		return &client.Error{Code: "QUIESCED", Detail: fmt.Sprintf("%s owns the key and is putting what was moved in place; try again soon", s.Node),
			Addr: addr, RetryMS: arriving.Milliseconds()}
	}
	return nil
}

// line is one entry of a dump. Key and value are in the text form for bytes.
type line struct {
	Key         string `json:"key"`
	Value       string `json:"value"`
	Epoch       uint64 `json:"epoch"`
	Incarnation uint64 `json:"incarnation"`
	Expires     int64  `json:"expires,omitempty"`
}

// dump writes what this node has on disk, whoever owns it: an old copy that waits to be deleted too.
func (s *Server) dump(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "prefix")
	if err != nil {
		return err
	}
	p, err := scope.ParsePrefix(q.Get("prefix"))
	if err != nil {
		return invalid("prefix: %v", err)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	control := http.NewResponseController(w)
	err = s.Disk.Each(r.Context(), p, time.Now(), func(key []byte, e Entry) error {
		_ = control.SetWriteDeadline(time.Now().Add(requestTime)) // for a line, not for all of it
		return enc.Encode(line{Key: scope.BytesText(string(key)), Value: scope.BytesText(string(e.Value)),
			Epoch: e.Token.Epoch, Incarnation: e.Token.Incarnation, Expires: e.Expires})
	})
	if err != nil {
		panic(http.ErrAbortHandler) // or the reader would take half of it for all
	}
	return nil
}

// status tells of the session and the store. Counting the records under ?prefix= reads them.
func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "prefix")
	if err != nil {
		return err
	}
	staged, err := s.Disk.Staged(r.Context())
	if err != nil {
		return err
	}
	if staged == nil {
		staged = []string{} // for JSON
	}
	session, ready := s.Status()
	out := map[string]any{"node": s.Node, "ready": ready, "session": session, "staged": staged,
		"written": s.written.Load(), "read": s.read.Load(), "refused": s.refused.Load()}
	if q.Has("prefix") {
		p, err := scope.ParsePrefix(q.Get("prefix"))
		if err != nil {
			return invalid("prefix: %v", err)
		}
		records, size, err := s.Disk.Size(r.Context(), p)
		if err != nil {
			return err
		}
		out["records"], out["bytes"] = records, size
	}
	return writeJSON(w, out)
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) error {
	if _, ready := s.Status(); !ready {
		return &client.Error{Code: "UNAVAILABLE", Detail: "the session is not ready; /v1/status says what it waits for"}
	}
	return writeJSON(w, "ok")
}

// query returns the parameters, of which each may be given once.
func query(r *http.Request, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query of the URL: %v", err)
	}
	taken := 0
	for _, name := range names {
		if len(q[name]) > 1 {
			return nil, invalid("%s is given %d times; give it once", name, len(q[name]))
		}
		taken += len(q[name])
	}
	if len(q) != taken {
		return nil, invalid("the query %q has more than the parameters that are taken here: %v", r.URL.RawQuery, names)
	}
	return q, nil
}

func parseKey(text string) ([]byte, error) {
	raw, err := scope.ParseBytes(text)
	if err != nil {
		return nil, invalid("key: %v", err)
	}
	return []byte(raw), Check([]byte(raw))
}

func parseExpires(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 {
		return 0, invalid("expires %q is not a number of milliseconds since 1970", text)
	}
	return ms, nil
}

func invalid(format string, args ...any) error {
	return &client.Error{Code: "INVALID", Detail: fmt.Sprintf(format, args...)}
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(v)
}

// refuse answers with problem JSON.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.refused.Add(1)
	if known := new(client.Error); !errors.As(err, &known) { // the client is told nothing of it
		s.Log.Error("a request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	client.WriteError(w, err)
}
