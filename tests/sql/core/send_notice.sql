-- graphjobs.core.notifications.SEND_NOTICE
PREPARE core_send_notice AS
SELECT pg_notify('graphjobs_queued', '') AS pg_notify_1;
