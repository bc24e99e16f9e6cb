package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"mime"
	"net/http"

	"github.com/scope-registry/scope-registry/internal/api"
)

const (
	backupType = "application/octet-stream"
	// maxBackups bounds the downloads at the same time: each encodes the whole
	// state, and a slow one keeps its version of it in memory.
	maxBackups = 4
)

// backup streams the state as a snapshot. Everything that was acknowledged
// before the request is in it.
func (s *server) backup(w http.ResponseWriter, r *http.Request) {
	if !take(&s.backups, maxBackups) {
		writeProblem(w, problemOf(&api.Error{Code: api.Limit,
			Detail: fmt.Sprintf("this server sends %d backups, which is the limit; use another server, or wait for one to end", maxBackups)}))
		return
	}
	defer s.backups.Add(-1)
	st, err := s.read(r.Context(), ReadParams{Consistency: "linearizable"})
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	c := callerOf(r.Context())
	if err := c.still(st); err != nil { // that state may know more than the one the request was admitted by
		writeProblem(w, problemOf(err))
		return
	}
	name := fmt.Sprintf("scope-registry-%s-%d.backup", st.Cluster().ID, st.Index())
	w.Header().Set("Content-Type", backupType)
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	startStream(w)
	if r.Method == http.MethodHead {
		return
	}
	out := bufio.NewWriterSize(guarded{w, func() error { return c.still(s.reg.State()) }}, writePiece)
	err = st.EncodeBackup(out, nowMS())
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	if err != nil {
		s.log.Warn("a backup broke off", "to", r.RemoteAddr, "index", st.Index(), "error", err)
		panic(http.ErrAbortHandler) // cuts the connection, so that the client does not take this for the end
	}
}

// guarded is a writer that stops when its reader may not go on.
type guarded struct {
	io.Writer
	still func() error
}

// Write writes a piece.
func (g guarded) Write(p []byte) (int, error) {
	if err := g.still(); err != nil {
		return 0, err
	}
	return g.Writer.Write(p)
}
