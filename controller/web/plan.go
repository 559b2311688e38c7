package web

import (
	"errors"
	"io"
	"kicker/controller/api"
	"net/http"
)

const (
	planPath  = "/v1/plan"
	maxConfig = 1 << 20 // bytes of a configuration
)

// plan says what another configuration would change. It changes nothing: whoever may read may ask.
func (s *server) plan(w http.ResponseWriter, r *http.Request) {
	if !s.knownQuery(w, r) {
		return
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxConfig))
	if err != nil {
		s.refuse(w, err, "the body is the text of a kicker.yaml")
		return
	}
	p, err := s.Plan(r.Context(), text)
	switch {
	case errors.Is(err, api.ErrNotSynced):
		s.fail(w, http.StatusServiceUnavailable, notSynced(s.View().Sync.Why))
	case err != nil:
		s.fail(w, http.StatusBadRequest, api.Error{Error: err.Error(), Remedy: "the controller would refuse it; kicker config validate checks a file"})
	default:
		s.answer(w, p)
	}
}
