package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	// maxLine bounds one line of a watch: a snapshot is cut into lines far below it.
	maxLine = 16 << 20
	// lineBuffer holds a heartbeat, and most changes. There is one for each stream, and a process may have very many; a
	// longer line gets memory of its own while it is read.
	lineBuffer = 4 << 10
)

// stream is one connection of a watch, to one endpoint: it ends with the first
// error and does not connect again. It is for one goroutine, but for close.
type stream struct {
	at    uint32 // number of the endpoint
	reply *reply
	lines *bufio.Reader // of the stream's own Read
	quiet time.Duration
	long  []byte // of the last line that was longer than the buffer; kept while a snapshot goes on
}

// openStream asks the endpoints in turn for the changes after from, 0 for a
// snapshot first, and returns the first stream that a server begins. It starts
// with the endpoint after the one that the client's last stream was of: that one
// may have been ended since its server stood still. The stream ends with ctx, or
// when nothing came for the time quiet while next waits; a server has as long to
// begin it.
func (c *Client) openStream(ctx context.Context, from uint64, quiet time.Duration) (*stream, error) {
	return c.openStreamAt(ctx, c.watchNext(), from, quiet)
}

// watchNext is the endpoint that a new watch asks first.
func (c *Client) watchNext() uint32 {
	if first := c.watched.Load(); first != 0 {
		return first
	}
	return c.next.Load()
}

// openStreamAt begins with the endpoint of number first, counted round. A server
// that has too many watchers, or is not trusted, is passed over too.
func (c *Client) openStreamAt(ctx context.Context, first uint32, from uint64, quiet time.Duration) (*stream, error) {
	var last error = noEndpoint()
	q := call{method: http.MethodGet, path: "/v1/watch", query: url.Values{"from": {strconv.FormatUint(from, 10)}}}
	for i := range uint32(len(c.endpoints)) {
		at := (first + i) % uint32(len(c.endpoints))
		r, err := c.open(ctx, c.endpoints[at], q, "", nil, quiet)
		if err == nil {
			r.alive.Stop() // until next waits
			c.watched.Store(at + 1)
			s := &stream{at: at, reply: r, quiet: quiet}
			s.lines = bufio.NewReaderSize(s, lineBuffer)
			return s, nil
		}
		switch code := api.CodeOf(err); {
		case code == api.Limit, code == api.Unauthenticated, again(err, false):
		default:
			return nil, err
		}
		last = err
	}
	if errors.Is(last, &api.Error{Code: api.OutcomeUnknown}) {
		last = &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("no watch could be begun: %v", last)} // nothing was asked to be changed
	}
	return nil, last
}

// endpoint is the server's address.
func (s *stream) endpoint() string { return s.reply.endpoint }

// close ends the stream, and a next that waits. Any goroutine may call it, any
// number of times.
func (s *stream) close() { s.reply.close() }

// next waits for the next item. The error that the server ended the stream with
// is returned as it is; UNAVAILABLE is that of a connection which broke, sent
// nothing for too long, or was ended by the context; INTERNAL that of something
// that is no watch. How long the caller takes between two calls does not matter.
func (s *stream) next() (api.WatchItem, error) {
	var item api.WatchItem
	line, err := s.line()
	if err != nil {
		return item, &api.Error{Code: api.Unavailable, Detail: fmt.Sprintf("the watch of %s broke off: %v", s.endpoint(), err)}
	}
	if err := json.Unmarshal(line, &item); err != nil {
		return item, &api.Error{Code: api.Internal, Detail: fmt.Sprintf("the watch of %s sent a line that is not its JSON: %v", s.endpoint(), err)}
	}
	if !item.More {
		s.long = nil
	}
	if item.Error != nil {
		return item, item.Error
	}
	return item, nil
}

// Read reads the body. As long as something comes the server is not silent,
// however long a line takes.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.reply.Read(p)
	if n > 0 {
		s.reply.alive.Reset(s.quiet)
	}
	return n, err
}

// line reads one line, which is valid until the next.
func (s *stream) line() ([]byte, error) {
	s.reply.alive.Reset(s.quiet)
	defer s.reply.alive.Stop() // the caller may take its time
	part, err := s.lines.ReadSlice('\n')
	if err == nil {
		return part, nil
	}
	s.long = append(s.long[:0], part...)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(s.long) > maxLine {
			return nil, fmt.Errorf("a line has more than %d bytes", maxLine)
		}
		part, err = s.lines.ReadSlice('\n')
		s.long = append(s.long, part...)
	}
	return s.long, err
}
