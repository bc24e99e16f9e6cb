// Package direct is one server of the cluster as a client sees it that talks to
// this server and to no other. No change is sent twice.
package direct

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
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// maxReply bounds the body of a reply in bytes: a full page of scopes is smaller.
	maxReply = 64 << 20
	// dialTime bounds connecting on loopback, where a proxy in front of a container accepts at once.
	dialTime = time.Second
)

// Server is one server. It is safe for use by many goroutines.
type Server struct {
	id, url string
	http    *http.Client
}

// New returns the server id that answers at a base URL; secure is for one of https
// and may be nil. It does not connect. Close it when done.
func New(id, base string, secure *tls.Config) *Server {
	dialer := &net.Dialer{Timeout: dialTime}
	return &Server{id: id, url: base, http: &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: secure,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second}}}
}

// ID is the server's id.
func (s *Server) ID() string { return s.id }

// URL is the server's base URL.
func (s *Server) URL() string { return s.url }

// Close drops idle connections.
func (s *Server) Close() { s.http.CloseIdleConnections() }

// Request is one request.
type Request struct {
	Method, Path string
	Query        url.Values
	RequestID    string // "" sends none
	Epoch        uint64 // If-Match; 0 sends none
	Body         any    // nil sends none
}

// Get is a request for path with pairs of query parameters.
func Get(path string, pairs ...string) Request {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return Request{Method: http.MethodGet, Path: path, Query: q}
}

// Reply is what the headers of a reply say.
type Reply struct {
	Index  uint64 // of the state that answered
	Leader string // whom the server takes for the leader, of reads only; "" is nobody
}

// Do sends the request once and decodes the body of a good reply into out,
// unless nil. A refusal is an *api.Error; UNAVAILABLE is also one that never
// reached the server, OUTCOME_UNKNOWN one whose fate is open.
func (s *Server) Do(ctx context.Context, r Request, out any) (Reply, error) {
	req, err := s.request(ctx, r)
	if err != nil {
		return Reply{}, &api.Error{Code: api.Invalid, Detail: err.Error()}
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return Reply{}, s.lost(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return Reply{}, s.lost(err)
	}
	reply := Reply{Leader: resp.Header.Get(api.HeaderLeader)}
	if reply.Index, err = strconv.ParseUint(resp.Header.Get(api.HeaderIndex), 10, 64); err != nil {
		return reply, s.strange(r, fmt.Sprintf("header %s is no index: %v", api.HeaderIndex, err))
	}
	if resp.StatusCode/100 != 2 {
		var e api.Error
		if err := json.Unmarshal(data, &e); err != nil || !e.Code.Known() {
			return reply, s.strange(r, fmt.Sprintf("status %d without a code: %.200q", resp.StatusCode, data))
		}
		return reply, &e
	}
	if out == nil {
		return reply, nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return reply, s.strange(r, fmt.Sprintf("%v in %.200q", err, data))
	}
	return reply, nil
}

func (s *Server) request(ctx context.Context, r Request) (*http.Request, error) {
	var body io.Reader
	if r.Body != nil {
		data, err := json.Marshal(r.Body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	target := s.url + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, body)
	if err != nil {
		return nil, err
	}
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.RequestID != "" {
		// In lower case, or net/http sends the request again by itself when a pooled connection breaks: then one that was
		// perhaps done would be told as one that never reached a server that is gone by now.
		req.Header[strings.ToLower(api.HeaderRequestID)] = []string{r.RequestID}
	}
	if r.Epoch != 0 {
		req.Header.Set("If-Match", strconv.FormatUint(r.Epoch, 10))
	}
	return req, nil
}

// strange is an answer that no server of ours gives. It may have been given
// after the change was made.
func (s *Server) strange(r Request, what string) error {
	return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("%s %s at %s: %s", r.Method, r.Path, s.id, what)}
}

func (s *Server) lost(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("server %s cannot be reached: %v", s.id, err)}
	}
	return &api.Error{Code: api.OutcomeUnknown, Detail: fmt.Sprintf("server %s did not answer: %v", s.id, err)}
}

// Leader is whom the server takes for the leader, "" for nobody.
func (s *Server) Leader(ctx context.Context) (string, error) {
	reply, err := s.Do(ctx, Get("/healthz"), nil)
	return reply.Leader, err
}

// Ready is nil when the server has caught up and knows a leader.
func (s *Server) Ready(ctx context.Context) error {
	_, err := s.Do(ctx, Get("/readyz"), nil)
	return err
}

// Acknowledges is nil when a change was acknowledged that was asked of the server: a batch without items, which goes through the
// log, and is refused, as any other, and changes nothing.
func (s *Server) Acknowledges(ctx context.Context) error {
	_, err := s.Do(ctx, Request{Method: http.MethodPost, Path: "/v1/apply", Body: api.Batch{}}, nil)
	return err
}

// Status is the cluster as the server sees it, with the hash of every server's state.
func (s *Server) Status(ctx context.Context) (api.Cluster, error) {
	var c api.Cluster
	_, err := s.Do(ctx, Get("/v1/cluster", "hash", "true"), &c)
	return c, err
}
