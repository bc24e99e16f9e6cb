package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

// SlicePath is where a node takes the batches of slices that move to it, on its
// own address: mount [Session.Handler] there.
const SlicePath = "/scope-registry/slices"

const (
	sliceType = "application/vnd.scope-registry.slice"

	// sliceDial bounds the dial of another node: within it a connection on one network
	// is made several times over, or not at all.
	sliceDial = time.Second
	// sliceAnswer bounds a call until the answer, for callers that set no time of their
	// own: the target may have to wait for its disk. A long batch gets more, at slowest
	// bytes a second.
	sliceAnswer = 30 * time.Second

	// Each bodyStep bytes of a body, and its last ones, have to come within bodyTime:
	// a sender that is slower has given up the try itself. The time is for a step and
	// not for all, or one that stands still would hold the room of others for minutes.
	bodyTime = 5 * time.Second
	bodyStep = 5 << 19 // 512 KiB a second
	// Bodies are held in two rooms, so that a few long ones do not keep out those of
	// the usual size: usualBodies bytes of bodies that are no longer than usualBody, and
	// the first bytes of others; and longBodies bytes, which is one of the longest kind,
	// of others whose move is known to come here.
	usualBody   = 2 * shipBytes
	usualBodies = 64 << 20
	longBodies  = MaxBatchBytes
	// busyRetryMS is what a sender waits that finds them all in use.
	busyRetryMS = 50
)

// HTTPSend sends batches by POST to [SlicePath] at the address of the other node,
// over plain HTTP; h may change what a connection is. Nil is a client of its own,
// that keeps connections open, asks no proxy, and dials for a second at most. It
// follows no redirect.
func HTTPSend(h *http.Client) Send {
	if h == nil {
		dialer := &net.Dialer{Timeout: sliceDial}
		h = &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, DisableCompression: true}}
	}
	direct := *h
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return sender("http", func(string) *http.Client { return &direct })
}

// sender sends by the HTTP client that there is for each node.
func sender(scheme string, clientOf func(node string) *http.Client) Send {
	return func(ctx context.Context, to Peer, b *Batch) error {
		data, err := b.encoded()
		if err != nil {
			return err
		}
		sent := &outgoing{pieces: data}
		defer sent.end()
		ctx, cancel := context.WithTimeout(ctx, sliceAnswer+time.Duration(sent.size())*time.Second/slowest)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+to.Addr+SlicePath, nil)
		if err != nil {
			return badBatch("node %q cannot be sent anything at the address %q: %v; declare it with host:port", to.Node, to.Addr, err)
		}
		req.Header.Set("Content-Type", sliceType)
		req.ContentLength, req.GetBody = sent.size(), sent.body
		req.Body, _ = sent.body()
		resp, err := clientOf(to.Node).Do(req)
		if err != nil {
			return sendFailed(to, err)
		}
		defer resp.Body.Close()
		return sliceAnswered(to, resp)
	}
}

// outgoing is a batch that is sent, perhaps twice: over a connection that turns out to be closed, and then over another.
type outgoing struct {
	pieces [][]byte

	mu   sync.Mutex // guards over, and the pieces
	over bool       // the pieces are not the sender's any more; a transport may go on to read for a while
}

func (o *outgoing) size() (n int64) {
	for _, p := range o.pieces {
		n += int64(len(p))
	}
	return n
}

// body reads the batch from its beginning.
func (o *outgoing) body() (io.ReadCloser, error) {
	var all []io.Reader
	for _, p := range o.pieces {
		all = append(all, bytes.NewReader(p))
	}
	return io.NopCloser(&outgoingBody{o, io.MultiReader(all...)}), nil
}

func (o *outgoing) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
}

type outgoingBody struct {
	of   *outgoing
	left io.Reader
}

func (b *outgoingBody) Read(p []byte) (int, error) {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	if b.of.over {
		return 0, errors.New("the sender has given up")
	}
	return b.left.Read(p)
}

// sendFailed tells a batch that never left from one of which it is not known what
// became of it.
func sendFailed(to Peer, err error) error {
	if dialling := unsent(err); dialling != nil {
		return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("node %q cannot be reached at %s: %v; does it run, and take slices there?", to.Node, to.Addr, dialling)}
	}
	return &api.Error{Code: api.OutcomeUnknown, Detail: fmt.Sprintf("node %q at %s did not answer: %v", to.Node, to.Addr, err)}
}

// sliceAnswered reads the answer of a node. One that is not of a node's handler is
// UNAVAILABLE where another process may take its place soon, as while a node
// starts.
func sliceAnswered(to Peer, resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var e api.Error
	switch {
	case resp.StatusCode == http.StatusNoContent:
		return nil
	case err != nil:
		return sendFailed(to, err)
	case resp.StatusCode >= 400 && json.Unmarshal(data, &e) == nil && e.Code != "":
		return &e
	}
	code := api.Unavailable
	if resp.StatusCode < 400 {
		code = api.Invalid
	}
	return &api.Error{Code: code, Detail: fmt.Sprintf("node %q at %s answered with status %d to POST %s, and with nothing that a node says; mount Session.Handler there",
		to.Node, to.Addr, resp.StatusCode, SlicePath)}
}

// sliceHandler takes batches over HTTP. A batch that is taken is answered 204, else
// there is a problem JSON with the status of its code.
func sliceHandler(take func(context.Context, *Batch) error, mayCome func(over *tls.ConnectionState, move string, long bool) error) http.Handler {
	e := &sliceEnd{take: take, mayCome: mayCome, usual: bodies{most: usualBodies}, long: bodies{most: longBodies}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := e.takeRequest(w, r); err != nil {
			sayProblem(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// sliceEnd is where batches come in.
type sliceEnd struct {
	take func(context.Context, *Batch) error
	// mayCome is asked by what a batch begins with. A long one is held only if it is certain that its move comes here, and as
	// long as it does: of such a one it is asked again and again.
	mayCome     func(over *tls.ConnectionState, move string, long bool) error
	usual, long bodies
}

func (e *sliceEnd) takeRequest(w http.ResponseWriter, r *http.Request) error {
	switch {
	case r.Method != http.MethodPost:
		return badBatch("%s %s; batches are sent by POST", r.Method, r.URL.Path)
	case r.Header.Get("Content-Type") != sliceType:
		return badBatch("a body of type %.100q; a batch has the type %s", r.Header.Get("Content-Type"), sliceType)
	case r.ContentLength < 0:
		return badBatch("a body without a length; a batch tells its own")
	case r.ContentLength > MaxBatchBytes:
		return tooLarge("a body of %d bytes; a batch has %d at most", r.ContentLength, MaxBatchBytes)
	}
	n := r.ContentLength
	first, long := n, n > usualBody
	if long {
		first = readStep
	}
	if err := e.usual.take(first); err != nil {
		return err
	}
	defer e.usual.give(first)
	conn := http.NewResponseController(w)
	held, of := int64(0), ""
	b, err := decodeBatch(&steps{body: r.Body, next: func() error {
		// A test's recorder has no deadlines; a server has.
		_ = conn.SetReadDeadline(time.Now().Add(bodyTime))
		if held == 0 {
			return nil
		}
		return e.mayCome(r.TLS, of, long) // the move may be over
	}}, n, func(move string) (room bool, err error) {
		if err := e.mayCome(r.TLS, move, long); err != nil || !long {
			return false, err
		}
		if err := e.long.take(n); err != nil {
			return false, err
		}
		held, of = n, move
		return true, nil
	})
	defer func() { e.long.give(held) }()
	var known *api.Error
	switch {
	case err == nil:
	case errors.As(err, &known):
		return err
	default:
		return corrupt("did not come whole: %v", err)
	}
	// What follows takes as long as the store needs.
	_ = conn.SetReadDeadline(time.Time{})
	return e.take(r.Context(), b)
}

// steps reads a body, and asks before each step whether it goes on.
type steps struct {
	body io.Reader
	next func() error
	left int // of the step
}

func (s *steps) Read(p []byte) (int, error) {
	if s.left == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
		s.left = bodyStep
	}
	n, err := s.body.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// sayProblem answers with an error.
func sayProblem(w http.ResponseWriter, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		e = &api.Error{Code: api.Internal, Detail: err.Error()}
	}
	data, err := json.Marshal(e)
	if err != nil {
		data = []byte(`{"code":"INTERNAL","detail":"the error cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.Code.HTTPStatus())
	_, _ = w.Write(data)
}

// bodies counts the bytes of those that are held.
type bodies struct {
	most int64
	mu   sync.Mutex // guards used
	used int64
}

func (b *bodies) take(n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.most {
		return &api.Error{Code: api.Unavailable, RetryMS: busyRetryMS, Detail: fmt.Sprintf("%d bytes of bodies are being taken already, and %d is the most; try again", b.used, b.most)}
	}
	b.used += n
	return nil
}

func (b *bodies) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
}
