package httpapi

import (
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
)

// openAPI configures huma: JSON only, no schema links, no page of documentation
// (that would load scripts from the internet), our own problems.
func openAPI(version string) huma.Config {
	cfg := huma.DefaultConfig("Scope registry", version)
	cfg.DocsPath, cfg.SchemasPath = "", ""
	cfg.CreateHooks = nil
	cfg.RejectUnknownQueryParameters = true
	cfg.Transformers = []huma.Transformer{toProblem}
	return cfg
}

// rawRoutes are those that write their own reply, which huma cannot see.
func (s *server) rawRoutes(metrics http.Handler) {
	text := func(what string) *huma.Response {
		return described(what, &huma.Schema{Type: huma.TypeString}, "text/plain")
	}
	s.raw(huma.Operation{OperationID: "healthz", Path: "/healthz", Summary: "Whether the process answers"},
		text("It does"), s.healthz)
	s.raw(huma.Operation{OperationID: "readyz", Path: "/readyz", Summary: "Whether this server has caught up once and knows a leader"},
		text("It has and does"), s.readyz)
	s.raw(huma.Operation{OperationID: "metrics", Path: "/metrics", Summary: "Prometheus metrics"},
		text("Text exposition format"), metrics.ServeHTTP)
	item := s.schemaOf(reflect.TypeFor[api.WatchItem](), "WatchItem")
	s.raw(huma.Operation{OperationID: "watch", Path: "/v1/watch",
		Summary: "Stream of changes from an index on; without one a snapshot comes first",
		Parameters: []*huma.Param{
			{Name: "from", In: "query", Schema: index(), Description: "The last index seen; 0 or none begins with a snapshot"},
			{Name: lastEventID, In: "header", Schema: index(), Description: "The last id seen; goes before from, which an EventSource repeats when it connects again"},
		}},
		described("Items until the client or an error ends it: one for each line, or as the data of one event each. The event's name is the item's type, "+
			"its id the index; inside a snapshot there is none", item, linesType, eventsType), s.watch)
	backup := described("The state in the snapshot format; the trailer at its end tells whether it is complete", &huma.Schema{Type: huma.TypeString, Format: "binary"}, backupType)
	backup.Headers = map[string]*huma.Param{"Content-Disposition": {Description: "A file name with cluster id and index", Schema: &huma.Schema{Type: huma.TypeString}}}
	s.raw(huma.Operation{OperationID: "backup", Path: "/v1/backup", Summary: "Download of the whole state, as new as a linearizable read"}, backup, s.backup)
	s.restoreRoute()
}

// restoreRoute is the one that takes what is no JSON.
func (s *server) restoreRoute() {
	text := &huma.Schema{Type: huma.TypeString}
	done := described("The backup is in force", s.schemaOf(reflect.TypeFor[api.Restored](), "Restored"), "application/json")
	s.raw(huma.Operation{OperationID: "restore", Method: http.MethodPost, Path: "/v1/restore",
		Summary: "Put a backup in the place of the state, as a new incarnation on hold",
		Parameters: []*huma.Param{
			{Name: "incarnation", In: "query", Required: true, Schema: index(), Description: "Above any that the cluster was ever in"},
			{Name: "incarnation_tag", In: "query", Schema: text, Description: "Random; the same restore is tried again with the same one. Drawn if not given"},
			{Name: "all_nodes_known", In: "query", Schema: &huma.Schema{Type: huma.TypeBoolean}, Description: "The admin's word that no other node was declared since the backup"},
			{Name: "from_cluster", In: "query", Schema: text, Description: "Id of the cluster that the backup is of; needed where it is another one"},
			{Name: "sha256", In: "query", Schema: text, Description: "Of the whole backup, in hex; not compared if not given"},
			{Name: api.HeaderActor, In: "header", Schema: text, Description: "Who asks, of callers that show neither token nor certificate"},
			{Name: api.HeaderReason, In: "header", Schema: text, Description: "Why, for the audit"},
		},
		RequestBody: &huma.RequestBody{Required: true, Description: "The backup, as it was downloaded",
			Content: map[string]*huma.MediaType{backupType: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}},
	}, done, s.restore)
}

// raw adds a GET, or the method it has, that writes its own reply, of which ok is
// the good one.
func (s *server) raw(op huma.Operation, ok *huma.Response, h http.HandlerFunc) {
	if op.Method == "" {
		op.Method = http.MethodGet
	}
	mustKnow(op.OperationID)
	op.Responses = s.problemResponse()
	op.Responses["200"] = ok
	s.api.OpenAPI().AddOperation(&op)
	s.mux.HandleFunc(op.Method+" "+op.Path, func(w http.ResponseWriter, r *http.Request) {
		reply := replyOf(r.Context())
		leave, err := s.admit(reply, access.Action(op.OperationID))
		if err != nil {
			reply.refuse(err)
			return
		}
		defer leave()
		if err := knownQuery(&op, r); err != nil {
			writeProblem(w, problemOf(err))
			return
		}
		h(w, r)
	})
}

// knownQuery refuses query parameters and bodies that op does not have, as huma does for
// the others. Probes and scrapers may send what they like.
func knownQuery(op *huma.Operation, r *http.Request) error {
	if !strings.HasPrefix(op.Path, "/v1/") {
		return nil
	}
	if op.Method == http.MethodGet && r.ContentLength != 0 {
		return invalid("%s takes no body; leave it out", op.Path) // a stream would wait for it
	}
	for name := range r.URL.Query() {
		if !slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.In == "query" && p.Name == name }) {
			return invalid("query.%s: unknown query parameter; see /openapi.json", name)
		}
	}
	return nil
}

func described(what string, schema *huma.Schema, types ...string) *huma.Response {
	out := &huma.Response{Description: what, Content: map[string]*huma.MediaType{}}
	for _, t := range types {
		out.Content[t] = &huma.MediaType{Schema: schema}
	}
	return out
}

func index() *huma.Schema {
	zero := 0.0
	return &huma.Schema{Type: huma.TypeInteger, Format: "int64", Minimum: &zero}
}

func (s *server) schemaOf(t reflect.Type, name string) *huma.Schema {
	return s.api.OpenAPI().Components.Schemas.Schema(t, true, name)
}

// problemResponse documents the error reply of an operation.
func (s *server) problemResponse() map[string]*huma.Response {
	return map[string]*huma.Response{"default": described("Refused or failed; code says why, outcome whether a mutation may have been applied",
		s.schemaOf(reflect.TypeFor[problem](), "Problem"), problemType)}
}

// describe adds to the description what the handlers' types do not tell.
func (s *server) describe() {
	doc := s.api.OpenAPI()
	schemas := doc.Components.Schemas.Map()
	delete(schemas, "ErrorModel") // huma's own errors, which toProblem replaces
	delete(schemas, "ErrorDetail")
	codes := api.Codes()
	slices.Sort(codes)
	for _, name := range []string{"Problem", "Error"} {
		schemas[name].Properties["code"].Enum = anys(codes)
	}
	schemas["Problem"].Properties["outcome"].Enum = anys([]api.Outcome{api.NotApplied, api.Unknown})
	for _, name := range []string{"token", "previous_token"} {
		schemas["OpenSession"].Properties[name].Format = "password" // a secret
	}
	schemas["WatchItem"].Properties["type"].Enum = anys([]string{"snapshot", "change", "heartbeat", "error"})
	for _, schema := range schemas {
		for _, field := range schema.Properties {
			field.Nullable = false // huma expects null for every slice; no reply has one
		}
	}
	doc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token":       {Type: "http", Scheme: "bearer", Description: "srt_ID_SECRET"},
		"certificate": {Type: "mutualTLS", Description: "With a URI scope-registry://CLUSTER/ROLE[/ID]"},
	}
	doc.Security = []map[string][]string{{"token": {}}, {"certificate": {}}, {}} // the last until the first token is made
	doc.Components.Headers = map[string]*huma.Param{
		api.HeaderIndex:       {Description: "Index of the state that answered", Schema: index()},
		api.HeaderLeader:      {Description: "Id of the leader; empty if none is known", Schema: &huma.Schema{Type: huma.TypeString}},
		api.HeaderLastContact: {Description: "Milliseconds since the leader was heard", Schema: index()},
	}
	for path, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Put, item.Post, item.Delete} {
			if op != nil {
				describeHeaders(op)
				describeSubject(op, path)
			}
		}
	}
}

func anys[T any](list []T) []any {
	out := make([]any, 0, len(list))
	for _, v := range list {
		out = append(out, v)
	}
	return out
}

// describeHeaders documents what [reply] adds.
func describeHeaders(op *huma.Operation) {
	names := []string{api.HeaderIndex}
	if op.Method == http.MethodGet {
		names = append(names, api.HeaderLeader, api.HeaderLastContact)
	}
	for _, r := range op.Responses {
		if r.Headers == nil {
			r.Headers = map[string]*huma.Param{}
		}
		for _, name := range names {
			r.Headers[name] = &huma.Param{Ref: "#/components/headers/" + name}
		}
	}
}

// describeSubject marks the query parameter that has to be there, but may be
// empty: huma knows only one or the other.
func describeSubject(op *huma.Operation, path string) {
	subject, ok := map[string]string{"/v1/route": "key", "/v1/explain": "key", "/v1/scope": "prefix"}[path]
	for _, p := range op.Parameters {
		if ok && p.Name == subject {
			p.Required, p.AllowEmptyValue = true, true
		}
	}
}
