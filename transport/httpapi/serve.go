package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Bounds of one front end.
const (
	// MaxConns bounds its open connections, each of which costs memory.
	MaxConns = 4096
	// readHeaderTimeout ends connections that send their header byte by byte.
	readHeaderTimeout = 5 * time.Second
	// maxHeaderBytes is more than any request of ours needs.
	maxHeaderBytes = 64 << 10
	// idleTimeout closes connections kept alive for nothing.
	idleTimeout = 2 * time.Minute
	// shutdownTimeout is how long requests may take to end.
	shutdownTimeout = 5 * time.Second
	// refusalTimeout bounds the writing of a refusal, which stops Accept.
	refusalTimeout = 100 * time.Millisecond
)

type shutdownKey struct{}

// untilShutdown calls cancel when the server that ctx's request came through
// shuts down: streams and waits would else hold it up. The function returned
// ends the watching of it.
func untilShutdown(ctx context.Context, cancel func()) (stop func()) {
	down, ok := ctx.Value(shutdownKey{}).(context.Context)
	if !ok {
		return func() {}
	}
	end := context.AfterFunc(down, cancel)
	return func() { end() }
}

// Serve answers requests on ln with h until ctx ends, under TLS with secure, unless it is nil. It then ends watch
// streams and waits at once, gives other requests up to 5 s, and closes ln. It
// returns nil after such an end, else why serving stopped.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, secure *tls.Config, logger hclog.Logger) error {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	down, shutDown := context.WithCancel(context.Background())
	defer shutDown()
	base, cancelAll := context.WithCancel(context.WithValue(context.Background(), shutdownKey{}, down))
	defer cancelAll()
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, MaxHeaderBytes: maxHeaderBytes, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	accepting := limit(ln, MaxConns)
	if secure != nil {
		accepting = tls.NewListener(accepting, secure)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(accepting) }()
	select {
	case err := <-served:
		_ = srv.Close() // what is open has nobody to answer it
		return fmt.Errorf("serving HTTP on %v stopped: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	shutDown()
	limited, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := srv.Shutdown(limited)
	if err != nil {
		cancelAll()
		err = srv.Close()
		logger.Warn("requests were cut off, as they did not end in time", "limit", shutdownTimeout)
	}
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// limited is a listener that refuses connections beyond a number of open ones.
type limited struct {
	net.Listener
	slots chan struct{}
}

func limit(ln net.Listener, n int) net.Listener {
	return &limited{ln, make(chan struct{}, n)}
}

// Accept returns the next connection there is room for, and tells the others
// why there is none.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &counted{Conn: conn, release: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			refuse(conn, cap(l.slots))
		}
	}
}

// refuse answers without reading. All of it is best effort.
func refuse(conn net.Conn, n int) {
	body := fmt.Sprintf(`{"type":"urn:scope-registry:error:LIMIT","title":"limit","status":429,"code":"LIMIT","outcome":"not applied",`+
		`"detail":"this server has %d connections, which is the limit; use another server, or close some"}`, n)
	_ = conn.SetWriteDeadline(time.Now().Add(refusalTimeout))
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		problemType, len(body), body)
	_ = conn.Close()
}

// counted gives its slot back when it is closed.
type counted struct {
	net.Conn
	release func()
}

// Close closes the connection.
func (c *counted) Close() error {
	defer c.release()
	return c.Conn.Close()
}
