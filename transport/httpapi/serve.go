package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
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

// Serve answers requests on ln with h until ctx ends, under TLS if secure is
// not nil. It then ends watch streams and waits at once, gives other requests up
// to 5 s, and closes ln. It returns nil after such an end, else why serving stopped.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, secure *tls.Config, logger hclog.Logger) error {
	if logger == nil {
		logger = hclog.NewNullLogger()
	}
	down, shutDown := context.WithCancel(context.Background())
	defer shutDown()
	base, cancelAll := context.WithCancel(context.WithValue(context.Background(), shutdownKey{}, down))
	defer cancelAll()
	d := newDoor(ln, MaxConns, secure != nil)
	srv := &http.Server{
		// The time for the header bounds the handshake of TLS too.
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, MaxHeaderBytes: maxHeaderBytes, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return base },
		ConnContext: withConn, ConnState: d.note, Protocols: new(http.Protocols),
		ErrorLog: logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	srv.Protocols.SetHTTP1(true) // alone: deadlines of single replies, and the books of connections, need that one request has one
	served := make(chan error, 1)
	go func() { served <- srv.Serve(d.under(secure)) }()
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
