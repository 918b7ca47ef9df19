-- The row of who is told of alerts is made when it is needed: a backup of data alone can then be put back into a
-- database that the migrations have just made. What nobody ever set says nothing.
DELETE FROM notification_settings WHERE version = 0;
