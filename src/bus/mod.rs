//! NATS JetStream: carries envelopes and rows between regions; the truth stays in PostgreSQL.
