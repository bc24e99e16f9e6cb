package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof" // what it registers by itself is served by nobody
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// profileHeaderTime bounds how long somebody may take to ask for a profile.
	profileHeaderTime = 5 * time.Second
	// profileCloseTime is what a profile under way gets at the end: it is of no use to who stops the server.
	profileCloseTime = 100 * time.Millisecond
)

// serveProfiles serves Go's profiles under /debug/pprof/ until ctx ends, and closes ln.
func serveProfiles(ctx context.Context, ln net.Listener, log hclog.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: profileHeaderTime}
	log.Info("profiles are served", "url", "http://"+ln.Addr().String()+"/debug/pprof/")
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return errors.Join(err, srv.Close())
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), profileCloseTime)
	defer cancel()
	if srv.Shutdown(end) != nil {
		_ = srv.Close() // whoever waits for a profile waits for nothing
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
