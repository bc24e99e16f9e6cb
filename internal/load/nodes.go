package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

const (
	// askTime bounds one request to a node: longer than any node is made to stand still.
	askTime = 30 * time.Second
	// maxReply bounds the answer to a write, maxLine a line of a dump, which holds one value.
	maxReply = 64 << 10
	maxLine  = 4 << 20
)

// Nodes is the nodes' HTTP as a client of examples/store uses it. Nothing is sent twice. It is safe for use by many
// goroutines. Close it when done.
type Nodes struct {
	addrs map[string]string // by node
	http  *http.Client
}

// NewNodes is of nodes at these addresses, host:port by id.
func NewNodes(addrs map[string]string) *Nodes {
	return &Nodes{addrs: addrs, http: &http.Client{Timeout: askTime, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

func (s *Nodes) request(ctx context.Context, method, node, path, param, value, body string) (*http.Response, error) {
	target := url.URL{Scheme: "http", Host: s.addrs[node], Path: path, RawQuery: url.Values{param: {value}}.Encode()}
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), rd)
	if err != nil {
		return nil, err
	}
	// Without it net/http would send a write again whose connection broke before any answer, if it had a way to.
	req.GetBody = nil
	return s.http.Do(req)
}

// Write makes one attempt to write or delete a key and fills in what became of it.
// The error that is returned besides says whom to turn to.
func (s *Nodes) Write(ctx context.Context, op *writes.Op) *api.Error {
	method := http.MethodPut
	if op.Deletes {
		method = http.MethodDelete
	}
	op.Call = time.Now().UnixNano()
	refusal := s.ask(ctx, method, op)
	op.Return = time.Now().UnixNano()
	switch {
	case refusal == nil:
		op.Outcome = writes.Acknowledged
		return nil
	case refusal.Code.Outcome() == api.Unknown:
		op.Outcome = writes.Unknown
	default:
		op.Outcome = writes.Refused
	}
	op.Code, op.Detail = string(refusal.Code), refusal.Detail
	return refusal
}

func (s *Nodes) ask(ctx context.Context, method string, op *writes.Op) *api.Error {
	resp, err := s.request(ctx, method, op.Node, "/v1/value", "key", op.Key, op.Value)
	if err != nil {
		if dial := new(net.OpError); errors.As(err, &dial) && dial.Op == "dial" {
			return &api.Error{Code: api.Unavailable, Detail: err.Error()}
		}
		return &api.Error{Code: api.OutcomeUnknown, Detail: "no answer: " + err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return &api.Error{Code: api.OutcomeUnknown, Detail: "half an answer: " + err.Error()}
	}
	if resp.StatusCode/100 != 2 {
		var e api.Error
		if err := json.Unmarshal(data, &e); err != nil || !e.Code.Known() {
			return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("status %d without a code of ours: %.200q", resp.StatusCode, data)}
		}
		return &e
	}
	var out struct {
		Node        string `json:"node"`
		Epoch       uint64 `json:"epoch"`
		Incarnation uint64 `json:"incarnation"`
		Began       int64  `json:"began_ns"`
		Ended       int64  `json:"ended_ns"`
	}
	if err := json.Unmarshal(data, &out); err != nil || out.Node != op.Node || out.Epoch == 0 || out.Began == 0 {
		return &api.Error{Code: api.Internal, Detail: fmt.Sprintf("a good answer that does not say who wrote what (%v): %.200q", err, data)}
	}
	op.Token, op.Began, op.Ended = writes.Token{Incarnation: out.Incarnation, Epoch: out.Epoch}, out.Began, out.Ended
	return nil
}

// Dump is all that a node has under a prefix.
func (s *Nodes) Dump(ctx context.Context, node, prefix string) ([]writes.Record, error) {
	resp, err := s.request(ctx, http.MethodGet, node, "/v1/dump", "prefix", prefix, "")
	if err != nil {
		return nil, fmt.Errorf("dump of %s: %w", node, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		data, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply)) // the status says enough
		return nil, fmt.Errorf("dump of %s: status %d: %.200q", node, resp.StatusCode, data)
	}
	var out []writes.Record
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r writes.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("dump of %s: %w in %.200q", node, err, lines.Bytes())
		}
		out = append(out, r)
	}
	return out, lines.Err()
}

// Ready is nil when a node says that its session is open.
func (s *Nodes) Ready(ctx context.Context, node string) error {
	resp, err := s.request(ctx, http.MethodGet, node, "/readyz", "", "", "")
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, _ := io.ReadAll(io.LimitReader(resp.Body, maxReply)) // the status says enough
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not ready: %.300q", node, data)
	}
	return nil
}

// Staged are the moves of which a node has a slice that is not in force yet.
func (s *Nodes) Staged(ctx context.Context, node string) ([]string, error) {
	resp, err := s.request(ctx, http.MethodGet, node, "/v1/status", "", "", "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var status struct {
		Staged []string `json:"staged"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(&status)
	return status.Staged, err
}

// Close drops idle connections.
func (s *Nodes) Close() { s.http.CloseIdleConnections() }
