"""The service around gpner: a document queue on Redis Streams, read inside a Celery worker."""
