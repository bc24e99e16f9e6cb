package peer

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
)

// session is the serving side of one call connection.
type session struct {
	from   string // id of the calling server
	handle func(ctx context.Context, from string, kind Kind, payload []byte) ([]byte, error)
	wire   *wire
	gates  gates

	handlers sync.WaitGroup
	mu       sync.Mutex // guards running
	running  map[uint64]context.CancelFunc
}

func newSession(ctx context.Context, conn net.Conn, from string,
	handle func(context.Context, string, Kind, []byte) ([]byte, error)) *session {
	return &session{
		from: from, handle: handle, wire: newWire(ctx, conn),
		running: make(map[uint64]context.CancelFunc),
	}
}

// run serves until the connection ends, returns why, and leaves no handler behind.
func (s *session) run() error {
	err := s.wire.run(s.onFrame)
	s.handlers.Wait() // their contexts ended with the wire's
	return err
}

// onFrame starts a handler, or ends the context of one whose caller gave up.
func (s *session) onFrame(h frameHead, r *bufio.Reader) error {
	if h.code == codeCancel {
		s.mu.Lock()
		cancel := s.running[h.id]
		s.mu.Unlock()
		if cancel != nil { // it may have answered meanwhile
			cancel()
		}
		return nil
	}
	// Not reading on is how a caller that sends more than it may is held.
	if err := s.gates.of(Kind(h.code)).enter(s.wire.ctx, h.size); err != nil {
		return err
	}
	payload, err := readPayload(r, h)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(s.wire.ctx)
	s.mu.Lock()
	_, twice := s.running[h.id]
	if !twice {
		s.running[h.id] = cancel
	}
	s.mu.Unlock()
	if twice {
		cancel()
		return fmt.Errorf("%w: call %d was started twice", errBadFrame, h.id)
	}
	s.handlers.Go(func() { s.serve(ctx, cancel, h, payload) })
	return nil
}

// serve runs one handler and queues its answer. The call counts as in flight until the answer is written, so that
// a caller which sends and never reads cannot pile up answers here.
func (s *session) serve(ctx context.Context, cancel context.CancelFunc, h frameHead, payload []byte) {
	body, err := s.handle(ctx, s.from, Kind(h.code), payload)
	cancel()
	s.mu.Lock()
	delete(s.running, h.id)
	s.mu.Unlock()
	out := &outgoing{id: h.id, code: codeResult, payload: body, onDone: func() { s.gates.of(Kind(h.code)).leave(h.size) }}
	if err == nil && len(body) > MaxCallPayload {
		err = fmt.Errorf("the answer to %v has %d bytes, at most %d fit into a frame", Kind(h.code), len(body), MaxCallPayload)
	}
	if err != nil {
		text := err.Error()
		out.code, out.payload = codeFailure, []byte(text[:min(len(text), maxErrorText)])
	}
	s.wire.push(out)
}

// maxErrorText bounds the text of a handler's error on the wire, in bytes. It is for people.
const maxErrorText = 4096
