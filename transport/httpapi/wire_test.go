package httpapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// wire is a listener whose connections are pipes. They hold nothing, so that a
// writer stops at once when nobody reads; and in a bubble their deadlines are
// virtual, so that a test of ten seconds takes none.
type wire struct {
	t     *testing.T
	conns chan net.Conn
	done  chan struct{}
	close func()
}

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	w.close()
	return nil
}

func (w *wire) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// wired serves b's handler over pipes until stop.
func wired(t *testing.T, h http.Handler) (w *wire, stop func()) {
	t.Helper()
	return wiredUnder(t, h, nil)
}

func wiredUnder(t *testing.T, h http.Handler, secure *tls.Config) (w *wire, stop func()) {
	t.Helper()
	done := make(chan struct{})
	w = &wire{t: t, conns: make(chan net.Conn), done: done, close: sync.OnceFunc(func() { close(done) })}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, w, h, secure, nil) }()
	return w, func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// dial connects and sends text, if the other side takes it.
func (w *wire) dial(text string) net.Conn {
	w.t.Helper()
	here, there := net.Pipe()
	w.conns <- there
	if text == "" { // a pipe waits for a reader even then
		return here
	}
	if _, err := io.WriteString(here, text); err != nil {
		w.t.Fatal(err)
	}
	return here
}

// get sends a GET and reads the header of its reply. The body is read as the
// test likes, until end.
func (w *wire) get(target, accept string) (h http.Header, body io.Reader, end func()) {
	w.t.Helper()
	conn := w.dial(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: pipe\r\nAccept: %s\r\n\r\n", target, accept))
	res := w.reply(conn) //nolint:bodyclose // end closes it
	return res.Header, res.Body, func() {
		_ = conn.Close() // first, as closing the body reads what is left of it
		_ = res.Body.Close()
	}
}

func (w *wire) reply(conn net.Conn) *http.Response {
	w.t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}
