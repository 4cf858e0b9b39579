-- graphjobs.core.notifications.NOTIFY_QUEUED
PREPARE core_notify_queued AS
SELECT pg_notify('graphjobs_queued', '') AS pg_notify_1;
