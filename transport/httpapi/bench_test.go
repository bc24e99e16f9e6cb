package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/internal/apitest"
)

// settled is a registry that commits what is proposed at once, all that waits together, so that little but the front end is measured.
type settled struct {
	Registry
	state fsm.State
	waits chan chan *fsm.Result
}

func (s settled) State() fsm.State { return s.state }

func (s settled) Propose(ctx context.Context, _ fsm.Envelope) (*fsm.Result, error) {
	done := make(chan *fsm.Result, 1)
	s.waits <- done
	select {
	case r := <-done:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// commit answers until waits is closed.
func (s settled) commit() {
	for done := range s.waits {
		all := []chan *fsm.Result{done}
		runtime.Gosched() // more may come
		for more := true; more; {
			select {
			case done, more = <-s.waits:
				if more {
					all = append(all, done)
				}
			default:
				more = false
			}
		}
		for _, done := range all {
			done <- &fsm.Result{Index: s.state.Index(), Changed: 1}
		}
	}
}

// BenchmarkChange is a change as our Go client sends it, until its answer, over many connections.
func BenchmarkChange(b *testing.B) {
	reg := apitest.New(b)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	s := settled{reg, reg.State(), make(chan chan *fsm.Result, 1024)}
	go s.commit()
	defer close(s.waits)
	go func() { ended <- Serve(ctx, ln, New(Config{Registry: s}), nil, nil) }()
	body := `{"id":"node-0001","addr":"` + strings.Repeat("0", 98) + `:1"}`
	request := []byte(fmt.Sprintf("PUT /v1/nodes/node-0001 HTTP/1.1\r\nHost: %s\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: %d\r\n"+
		"Content-Type: application/json\r\nX-Registry-Patience: 9999\r\nidempotency-key: 12345-00112233445566778899aabbccddeeff\r\nAccept-Encoding: gzip\r\n\r\n%s",
		ln.Addr(), len(body), body))
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		answer := make([]byte, 4096)
		for pb.Next() {
			n := 0
			if _, err = conn.Write(request); err == nil {
				n, err = io.ReadAtLeast(conn, answer, 1)
			}
			if err != nil || !bytes.HasPrefix(answer[:n], []byte("HTTP/1.1 200 ")) || !bytes.HasSuffix(answer[:n], []byte("}\n")) {
				b.Errorf("%v after %q", err, answer[:n])
				return
			}
		}
	})
	stop()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}
